"""What an untrained network tells: cheap scores, by which candidates may be left out early.

They are a sieve and no judge; the report lays them beside the number of parameters, which often
says as much. Each takes an untrained network and images (N, C, H, W), and is larger for what it
prefers. Read before: evolution.py. Read next: run.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.engine.distributed import World
from ppcls_lite.search.judge import resized
from ppcls_lite.search.networks import Networks, trainable
from ppcls_lite.search.space import SIZE, Candidate

Price = Callable[[nn.Layer, Tensor], float]


def parameters(model: nn.Layer, images: Tensor) -> float:
    """The number of trainable parameters, against which every other score has to stand."""
    return float(trainable(model))


def synflow(model: nn.Layer, images: Tensor) -> float:
    """Synaptic flow (Tanaka et al. 2020, arXiv 2006.05467, section 5): how much weight all paths
    from the input to the answers have together.

    The logarithm of the sum over the parameters of |parameter * slope|, where all parameters are
    taken as their sizes, the input is ones, and normalisation is left out.
    """
    model.eval()  # an untrained network's running statistics change nothing
    model.to(dtype="float64")  # products over all layers leave the range of float32
    learnt = [p for p in model.parameters() if not p.stop_gradient]
    with paddle.no_grad():
        for parameter in learnt:
            parameter.set_value(parameter.abs())
    answers = model(paddle.ones([1, *images.shape[1:]], dtype="float64"))
    several = answers.values() if isinstance(answers, Mapping) else (answers,)
    sum(answer.sum() for answer in several).backward()
    flow = sum(float((p * p.grad).abs().sum()) for p in learnt if p.grad is not None)
    return math.log(flow) if flow > 0 else -math.inf


@paddle.no_grad()
def patterns(model: nn.Layer, images: Tensor) -> float:
    """How well activations tell images apart (Mellor et al. 2021, arXiv 2006.04647, section 3).

    The logarithm of the determinant of the kernel that counts, for each two images, the activations
    of both that are on or off alike.
    """
    count = images.shape[0]
    kernel = np.zeros((count, count))

    def hear(layer: nn.Layer, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0] > 0).reshape([count, -1]).astype("float32").numpy()
        kernel[...] += on @ on.T + (1 - on) @ (1 - on).T

    heard = [layer for layer in model.sublayers() if isinstance(layer, _ACTIVATIONS)]
    hooks = [layer.register_forward_pre_hook(hear) for layer in heard]
    model.train()
    model(images)
    for hook in hooks:
        hook.remove()
    sign, logarithm = np.linalg.slogdet(kernel)
    return float(logarithm) if sign > 0 else -math.inf


class Untrained:
    """Asks candidates' networks, with first weights that only `seed` decides.

    images: (N, C, H, W), of the training; each candidate sees them at its own size. Rank 0 asks for
    all ranks, which then draw alike.
    """

    def __init__(self, networks: Networks, images: Tensor, seed: int, world: World) -> None:
        self.networks, self.images, self.seed, self.world = networks, images, seed, world

    def by(self, name: str) -> Callable[[Sequence[Candidate]], list[float]]:
        """The score of that name of any candidates."""
        return lambda candidates: self.world.from_main(
            lambda: [self._score(PRICES[name], candidate) for candidate in candidates]
        )

    def all(self, candidates: Sequence[Candidate]) -> dict[str, list[float]]:
        """Every score but the number of parameters."""
        names = [name for name, price in PRICES.items() if price is not parameters]
        return {name: self.by(name)(candidates) for name in names}

    def _score(self, price: Price, candidate: Candidate) -> float:
        paddle.seed(self.seed)
        return price(self.networks.build(candidate), resized(self.images, candidate.get(SIZE)))


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.GELU, nn.Swish, nn.Silu)
PRICES: Mapping[str, Price] = {"parameters": parameters, "synflow": synflow, "patterns": patterns}
