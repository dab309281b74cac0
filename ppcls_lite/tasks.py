"""A task couples a network with its loss, so that the trainer needs to know neither.

Classification, detection and segmentation differ by network, loss and metric, not by loop:
`Supervised` serves all three. `task.model` is what ships: what is saved, averaged and exported.
Read next: engine/trainer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddle import Tensor, nn

Batch = Mapping[str, Tensor]
Outputs = Any  # logits (N, class_num), or what the network and its loss agree on
Loss = Callable[[Outputs, Batch], dict[str, Tensor]]


class Supervised:
    """One network learns from labelled batches.

    `loss(outputs, batch)` returns named scalar terms and their sum under the key `loss`.
    """

    def __init__(self, model: nn.Layer, loss: Loss) -> None:
        self.model = model
        self.loss = loss

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Outputs]:
        """The loss terms (scalars; `loss` is their sum) and the outputs of `batch["image"]`."""
        outputs = self.model(batch["image"])
        return self.loss(outputs, batch), outputs

    def predict(self, images: Tensor) -> Outputs:
        """The network's outputs for `images` (N, C, H, W), in the current mode."""
        return self.model(images)

    def train(self) -> None:
        """Switch dropout on and batch normalisation to the statistics of the batch."""
        self.model.train()

    def eval(self) -> None:
        """Switch dropout off and batch normalisation to its running statistics."""
        self.model.eval()
