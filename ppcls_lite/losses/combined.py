"""The loss of a recipe: the terms of `Loss.Train` or `Loss.Eval` and their sum.

Read before: base.py. Read next: cross_entropy.py, ../engine/accumulate.py (who divides anew).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import Batch, Loss


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
    """Calls each loss on the same outputs and adds up all their terms under the key `loss`.

    A term's name that is taken already gets a number: `CELoss`, `CELoss_1`.
    all_labelled: that no image without label (-1) will come, so that the images with a label are
    all images.
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
