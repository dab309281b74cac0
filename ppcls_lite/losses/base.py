"""The contract of a loss: named terms that are means, and what these means are divided by.

The mean of a large batch follows from those of its parts only where each counts by its own
denominator. So a loss declares it, and accumulated batches, several ranks and an evaluation in
batches of any size give the large batch's value. Read next: combined.py, cross_entropy.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import paddle
from paddle import Tensor, nn

Batch = Mapping[str, Tensor]
Counted = Literal["images", "labels", "weights"]


class Loss(nn.Layer):
    """`loss(outputs, batch)` gives named scalars, each a mean times the loss's weight.

    divides_by: what all its terms are means over: the images of the batch, those of them that have
        a label, or a sum of weights. Other than for images, `denominator` is overridden.
    """

    divides_by: Counted = "images"

    def forward(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The terms of a network's outputs by name."""
        raise NotImplementedError

    def denominator(self, batch: Batch) -> Tensor:
        """What the terms are divided by, a float32 scalar; 0 where nothing counts.

        It depends on the labels only, so that it is known before a network has run.
        """
        return paddle.full([], batch["image"].shape[0])
