"""The contract of a loss: named terms that are means, and what these means are divided by.

The mean of a large batch follows from those of its parts only where each counts by its own
denominator, so a loss declares it: for accumulated batches, several ranks and evaluations.
Read next: cross_entropy.py, ../engine/accumulate.py (who divides anew).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import paddle
from paddle import Tensor, nn

from ppcls_lite.errors import UserError

Batch = Mapping[str, Tensor]
Counted = Literal["images", "labels", "weights"]


class Loss(nn.Layer):
    """`loss(outputs, batch)` gives named scalars, each a mean times the loss's weight.

    divides_by: what its terms are means over: the images, those that have a label, or a sum of
    weights. Other than for images, `denominator` is overridden.
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


class Terms(dict[str, Tensor]):
    """The terms of a batch by name, each multiplied by its weight, and `loss`, their sum.

    parts: the sum of the terms of each loss, in the losses' order.
    denominators: of the terms, by name, that are not means over the images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Tensor] = []
        self.denominators: dict[str, Tensor] = {}


class CombinedLoss(nn.Layer):
    """The list of a recipe: calls each loss on the same outputs and adds up all terms as `loss`.

    A term's name that is taken already gets a number: `CELoss`, `CELoss_1`. all_labelled: that no
    image without label (-1) will come.
    """

    def __init__(self, losses: Sequence[Loss], all_labelled: bool = False) -> None:
        super().__init__()
        if not losses:
            raise UserError("expected at least one loss, found an empty list")
        self.losses = nn.LayerList(losses)
        self.by_images = ("images", "labels") if all_labelled else ("images",)

    def forward(self, outputs: Any, batch: Batch) -> Terms:
        """All terms and their sum."""
        terms = Terms()
        for index, (loss, denominator) in enumerate(zip(self.losses, self.denominators(batch))):
            found = {
                f"{name}_{index}" if name in terms else name: value
                for name, value in loss(outputs, batch).items()
            }
            terms.update(found)
            terms.parts.append(sum(found.values()))
            if denominator is not None:
                terms.denominators.update(dict.fromkeys(found, denominator))
        terms["loss"] = sum(terms.values())
        return terms

    def denominators(self, batch: Batch) -> list[Tensor | None]:
        """What each loss's terms are divided by (scalars); None: by the number of images."""
        return [
            None if loss.divides_by in self.by_images else loss.denominator(batch)
            for loss in self.losses
        ]
