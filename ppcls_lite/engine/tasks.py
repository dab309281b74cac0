"""A task couples networks with their loss, so that the trainer needs to know neither.

Classification, detection and segmentation differ by network, loss and metric, not by loop:
`Supervised` serves all three; `Distilled` lets a student learn from fixed teachers or with others.
`task.model` is what ships: what is saved, averaged and exported. Read next: engine/trainer.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import paddle
from paddle import Tensor, nn

Batch = Mapping[str, Tensor]
Outputs = Any  # logits (N, class_num), or what the network and its loss agree on
Loss = Callable[[Outputs, Batch], dict[str, Tensor]]


class Supervised:
    """One network learns from labelled batches.

    `loss(outputs, batch)` returns named scalar terms and their sum under the key `loss`.

    model: the network that ships.
    companions: what else learns but does not ship, by name: a loss with parameters of its own.
    """

    def __init__(self, model: nn.Layer, loss: Loss | None) -> None:
        self.model = model
        self.loss = loss  # None: this task is only evaluated
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

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Outputs]:
        """The loss terms (scalars; `loss` is their sum) and the outputs of `batch["image"]`."""
        outputs = self.model(batch["image"])
        return self.loss(outputs, batch), outputs

    def predict(self, images: Tensor) -> Outputs:
        """The network's outputs for `images` (N, C, H, W), in the current mode."""
        return self.model(images)

    def train(self) -> None:
        """Switch dropout on and batch normalisation to the statistics of the batch."""
        for layer in (self.model, *self.companions.values()):
            layer.train()

    def eval(self) -> None:
        """Switch dropout off and batch normalisation to its running statistics."""
        for layer in (self.model, *self.companions.values()):
            layer.eval()


class Distilled(Supervised):
    """Networks that see the same images; those named in `frozen` never change.

    The loss and the metrics get a dict: each network's outputs under its name, and the student's
    logits under `logits`, so that those which know no distillation look at the student. Networks
    that are not frozen learn together with the student, as companions. `predict` runs the student
    alone: an evaluation needs no teacher.

    teacher_outputs: the frozen networks' outputs for a batch, by name. It is `run_teachers`;
    whoever has them already (a cache, by `batch["index"]`) may put another function there.
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
        others = {name: n for name, n in self.learners.items() if name != student}
        self.companions = others | self.companions
        for network in self.frozen.values():
            network.eval()
            for parameter in network.parameters():
                parameter.stop_gradient = True
        self.teacher_outputs: Callable[[Batch], dict[str, Outputs]] = self.run_teachers

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(name for name in (*self.frozen, *self.learners) if name != self.student)

    @property
    def references(self) -> dict[str, Supervised]:
        """A task of each teacher of the student's classes, which answers as the student does."""
        classes = getattr(self.model, "class_num", None)
        return {
            name: Distilled({self.student: network}, None, self.student)
            for name, network in self.frozen.items()
            if getattr(network, "class_num", None) == classes
        }

    @paddle.no_grad()
    def run_teachers(self, batch: Batch) -> dict[str, Outputs]:
        """Run the frozen networks as they are evaluated, whatever mode somebody has set."""
        outputs = {}
        for name, network in self.frozen.items():
            network.eval()
            outputs[name] = network(batch["image"])
        return outputs

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Outputs]:
        """The loss terms, and the outputs of all networks with the student's logits."""
        outputs = self._named(
            {
                **self.teacher_outputs(batch),
                **{name: network(batch["image"]) for name, network in self.learners.items()},
            }
        )
        return self.loss(outputs, batch), outputs

    def predict(self, images: Tensor) -> Outputs:
        """The student's outputs for `images` (N, C, H, W), in the form that `losses` gives."""
        return self._named({self.student: self.model(images)})

    def _named(self, outputs: dict[str, Outputs]) -> dict[str, Outputs]:
        own = outputs[self.student]
        return {**outputs, "logits": own["logits"] if isinstance(own, Mapping) else own}


def _learns(layer: nn.Layer) -> bool:
    return any(not parameter.stop_gradient for parameter in layer.parameters())
