"""A task couples networks with their loss, so that the trainer needs to know neither.

Classification, detection and segmentation differ by network, loss and metric, not by loop:
`Supervised` serves all three; `Distilled` lets a student learn from fixed teachers or with others.
`task.model` is what ships: what is saved, averaged and exported. Read next: engine/trainer.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import paddle
from paddle import Tensor, nn
from paddle.nn.layer.norm import _BatchNormBase

Batch = Mapping[str, Tensor]
Outputs = Any  # logits (N, class_num), or what the network and its loss agree on


class Terms(Protocol):
    """The terms of a batch: named scalars, their sum under `loss`, and what they are divided by.

    parts: the sum of the terms of each loss. ratios: of each loss, pairs of a term (`total`) that
    is divided by what the outputs tell, and that number (`divisor`, counted as 1 where it is less).
    denominators: by name, of those terms that are not means over the batch's images.
    """

    parts: Sequence[Tensor]
    ratios: Sequence[Sequence[Any]]
    denominators: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor: ...
    def items(self) -> Iterable[tuple[str, Tensor]]: ...


class Loss(Protocol):
    """One or several losses, called on the same outputs.

    `denominators(batch)` has, for each, what its terms will be divided by; None: the images, or
    what the outputs tell. `begin_epoch(epoch)` says where a training is.
    """

    def __call__(self, outputs: Outputs, batch: Batch) -> Terms: ...
    def denominators(self, batch: Batch) -> Sequence[Tensor | None]: ...
    def begin_epoch(self, epoch: int) -> None: ...


class Supervised:
    """One network learns from labelled batches.

    model: the network that ships.
    frozen: networks beside it that never change, by name.
    partners: those that learn together with it.
    loss: what it learns by; None: this task is only evaluated.
    companions: what else learns but does not ship, by name: a loss with parameters of its own.
    still_statistics: whether batch normalisation whose parameters learn at rate 0 keeps its running
        statistics, and normalises by them, in training as well; else they follow the images.
    """

    still_statistics: bool = True

    frozen: Mapping[str, nn.Layer] = MappingProxyType({})
    partners: Mapping[str, nn.Layer] = MappingProxyType({})

    def __init__(self, model: nn.Layer, loss: Loss | None) -> None:
        self.model = model
        self.loss = loss
        self.companions: dict[str, nn.Layer] = {}
        if isinstance(loss, nn.Layer) and _learns(loss):
            self.companions["loss"] = loss

    @functools.cached_property
    def trained(self) -> nn.Layer:
        """Everything that learns: the network itself, or a Layer that holds its companions too."""
        if not self.companions:
            return self.model
        return nn.LayerDict({"model": self.model, **self.companions})

    @property
    def others(self) -> tuple[str, ...]:
        """The networks beside the one that ships."""
        return ()

    @property
    def references(self) -> dict[str, Supervised]:
        """Tasks of fixed networks, whose scores are worth a comparison."""
        return {}

    def losses(self, batch: Batch) -> tuple[Terms, Outputs]:
        """The loss terms and the outputs of `batch["image"]`."""
        outputs = self.model(batch["image"])
        return self.loss(outputs, batch), outputs

    def named(self, output: Outputs) -> Outputs:
        """An output of `model`, in the form that losses and metrics take."""
        return output

    def beside(self, output: Outputs, batch: Batch) -> Outputs:
        """The outputs of all networks, where `output` is that of the one that ships."""
        return self.named(output)

    def scoring(self, model: nn.Layer) -> Supervised:
        """A task that evaluates `model` in the place of the one that ships."""
        return Supervised(model, None)

    def predict(self, images: Tensor) -> Outputs:
        """The outputs for `images` (N, C, H, W), in the current mode."""
        return self.named(self.model(images))

    def train(self) -> None:
        """Switch dropout on and batch normalisation to the statistics of the batch.

        What is frozen by a rate of 0 stays as it is evaluated.
        """
        for layer in (self.model, *self.companions.values()):
            layer.train()
            if self.still_statistics:
                for norm in filter(_is_still, layer.sublayers(include_self=True)):
                    norm.eval()

    def eval(self) -> None:
        """Switch dropout off and batch normalisation to its running statistics."""
        for layer in (self.model, *self.companions.values()):
            layer.eval()


class Distilled(Supervised):
    """Networks that see the same images; those named in `frozen` never change.

    The loss and the metrics get a dict: each network's outputs under its name, and the student's
    once more as they are, so that those which know no distillation look at the student. Networks
    that are not frozen learn together with the student, as companions. An evaluation runs the
    student alone.

    teacher_outputs: the frozen networks' outputs for a batch, by name. It is `run_teachers`;
    whoever has them already (a cache, by `batch["index"]`) may put another function there.
    teacher_runs: what `run_teachers` calls with the images, by name: the frozen networks, or
    whatever gives the same faster.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Layer],
        loss: Loss | None,
        student: str = "Student",
        frozen: Collection[str] = (),
    ) -> None:
        super().__init__(networks[student], loss)
        self.student = student
        self.frozen = {name: network for name, network in networks.items() if name in frozen}
        self.learners = {name: n for name, n in networks.items() if name not in frozen}
        self.partners = {name: n for name, n in self.learners.items() if name != student}
        self.companions = {**self.partners, **self.companions}
        for network in self.frozen.values():
            network.eval()
            for parameter in network.parameters():
                parameter.stop_gradient = True
        self.teacher_outputs: Callable[[Batch], dict[str, Outputs]] = self.run_teachers
        self.teacher_runs: dict[str, Callable[[Tensor], Outputs]] = {**self.frozen}

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(name for name in (*self.frozen, *self.learners) if name != self.student)

    @property
    def references(self) -> dict[str, Supervised]:
        """A task of each teacher of the student's classes, which answers as the student does."""
        return {
            name: self.scoring(network)
            for name, network in self.frozen.items()
            if network.class_num == self.model.class_num
        }

    @paddle.no_grad()
    def run_teachers(self, batch: Batch) -> dict[str, Outputs]:
        """Run the frozen networks as they are evaluated, whatever mode somebody has set."""
        outputs = {}
        for name, network in self.frozen.items():
            network.eval()
            outputs[name] = self.teacher_runs[name](batch["image"])
        return outputs

    def losses(self, batch: Batch) -> tuple[Terms, Outputs]:
        """The loss terms, and the outputs of all networks and, by themselves, the student's."""
        teachers = self.teacher_outputs(batch)
        learnt = {name: network(batch["image"]) for name, network in self.learners.items()}
        outputs = {**teachers, **learnt, **self.named(learnt[self.student])}
        return self.loss(outputs, batch), outputs

    def beside(self, output: Outputs, batch: Batch) -> dict[str, Outputs]:
        answers = {name: network(batch["image"]) for name, network in self.partners.items()}
        return {**self.teacher_outputs(batch), **answers, **self.named(output)}

    def scoring(self, model: nn.Layer) -> Supervised:
        return Distilled({self.student: model}, None, self.student)

    def named(self, output: Outputs) -> dict[str, Outputs]:
        """The student's output under its name, and what it holds; of a tensor alone, logits."""
        own = output if isinstance(output, Mapping) else {"logits": output}
        return {self.student: output, **own}


def _is_still(layer: nn.Layer) -> bool:
    """Whether it is a batch normalisation with parameters, all of which learn at rate 0."""
    if not isinstance(layer, _BatchNormBase):
        return False
    own = [parameter for parameter in (layer.weight, layer.bias) if parameter is not None]
    return bool(own) and not any(map(_moves, own))


def _moves(parameter: Tensor) -> bool:
    return not parameter.stop_gradient and parameter.optimize_attr["learning_rate"] != 0


def _learns(layer: nn.Layer) -> bool:
    return any(not parameter.stop_gradient for parameter in layer.parameters())
