"""One set of weights for all candidates: each is a part of the largest network.

A candidate's weights are the first rows and columns of the largest network's arrays of the same
name, and the middle of its kernels. So there is no special network: a candidate is built as any
other, gets its part of the weights, and hands its gradients back, with the CPU kernels and whatever
else the toolkit has. Each update trains the largest network, the smallest and some between (the
sandwich rule of Yu and Huang, https://arxiv.org/abs/1903.05134, section 3), all but the largest by
its answers (their section 4). Running statistics are no part's own: they are taken anew for each
candidate. Read before: space.py. Read next: run.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.search.space import Candidate, Space

Build = Callable[[Candidate], nn.Layer]
Slices = tuple[slice, ...]
BETWEEN = 2  # candidates drawn for each update, beside the smallest


def part_of(whole: Sequence[int], part: Sequence[int], name: str) -> Slices:
    """Where an array of shape `part` lies in one of shape `whole`.

    The first rows and columns; of the last two of four dimensions, a kernel's, the middle.
    Raises UserError where it does not fit.
    """
    if len(whole) != len(part) or any(p > w for p, w in zip(part, whole)):
        raise UserError(
            f"{name}: an array of {list(part)} is no part of one of {list(whole)}; the last "
            "option of each slot has to give the network of which all others are parts"
        )
    slices = []
    for axis, (p, w) in enumerate(zip(part, whole)):
        first = (w - p) // 2 if len(whole) == 4 and axis >= 2 else 0
        slices.append(slice(first, first + p))
    return tuple(slices)


def take(model: nn.Layer, weights: Mapping[str, np.ndarray]) -> None:
    """Give `model` its part of the largest network's `weights`."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name not in weights:
            raise UserError(f"{name}: the largest network of the space has no such array")
        state[name] = weights[name][part_of(weights[name].shape, tensor.shape, name)]
    model.set_state_dict(state)


class Gradients:
    """The gradients of the largest network's parameters: of each number, the mean over the
    networks that have it. A sum would let what all share learn faster than the rest."""

    def __init__(self, whole: nn.Layer) -> None:
        self._parameters = {n: p for n, p in whole.named_parameters() if p.grad is not None}
        self._sums = {n: p.grad.numpy().copy() for n, p in self._parameters.items()}
        self._counts = {n: np.ones_like(total) for n, total in self._sums.items()}

    def add(self, part: nn.Layer) -> None:
        """Add those of a part of the network."""
        for name, parameter in part.named_parameters():
            if parameter.grad is not None:
                place = part_of(self._sums[name].shape, parameter.shape, name)
                self._sums[name][place] += parameter.grad.numpy()
                self._counts[name][place] += 1

    def set(self) -> None:
        """Put the means into the largest network."""
        for name, parameter in self._parameters.items():
            parameter.grad.set_value(self._sums[name] / self._counts[name])


def retake_statistics(model: nn.Layer, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of `model` by the means over `batches` (N, C, H, W)."""
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    before = [norm._momentum for norm in norms]
    model.train()
    with paddle.no_grad():
        for number, batch in enumerate(batches):
            for norm in norms:
                norm._momentum = number / (number + 1)
            model(batch)
    for norm, momentum in zip(norms, before):
        norm._momentum = momentum
    model.eval()


class Supernet:
    """The largest network, and updates of all of its parts.

    space, build: candidates, and how their networks are made, with CPU kernels if wanted.
    loss: outputs and batch -> a scalar.
    """

    def __init__(self, space: Space, build: Build, loss: Callable[[Any, Any], Tensor]) -> None:
        self.space, self.build, self.loss = space, build, loss
        self.whole = build(space.largest())

    def weights(self) -> dict[str, np.ndarray]:
        """The arrays of the largest network, which its parts are cut from."""
        return {name: tensor.numpy() for name, tensor in self.whole.state_dict().items()}

    def network(self, candidate: Candidate) -> nn.Layer:
        """The candidate's network with its part of the weights."""
        model = self.build(candidate)
        take(model, self.weights())
        return model

    def backward(self, batch: Mapping[str, Tensor], rng: np.random.Generator) -> float:
        """The gradients of one update, in the largest network's parameters; returns its loss."""
        self.whole.train()
        outputs = self.whole(batch["image"])
        loss = self.loss(outputs, batch)
        loss.backward()
        answers = outputs.detach() if isinstance(outputs, Tensor) else None
        gradients, weights = Gradients(self.whole), self.weights()
        drawn = [self.space.draw(rng) for _ in range(BETWEEN)]
        for candidate in [self.space.smallest(), *drawn]:
            model = self.build(candidate)
            take(model, weights)
            model.train()
            own = model(batch["image"])
            taught = answers is not None and isinstance(own, Tensor)
            (imitation(own, answers) if taught else self.loss(own, batch)).backward()
            gradients.add(model)
        gradients.set()
        return float(loss)


def imitation(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of logits (N, classes, ...) against a teacher's probabilities, its mean."""
    target = F.softmax(teacher, axis=1)
    return -(target * F.log_softmax(outputs, axis=1)).sum(axis=1).mean()
