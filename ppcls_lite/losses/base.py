"""The contract of a loss: named terms that are means, and what these means are divided by.

The mean of a large batch follows from those of its parts only where each counts by its own
denominator, so a loss declares it: for accumulated batches, several ranks and evaluations.
Read next: cross_entropy.py, ../engine/accumulate.py (who divides anew).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import paddle
from paddle import Tensor, nn

from ppcls_lite.errors import UserError

Batch = Mapping[str, Tensor]
Counted = Literal["images", "labels", "weights", "outputs"]


class Ratio(NamedTuple):
    """A term that is divided by what only the outputs tell, but never by less than 1."""

    total: Tensor
    divisor: Tensor


class Loss(nn.Layer):
    """`loss(outputs, batch)` gives named scalars, each a mean times the loss's weight.

    divides_by: what its terms are means over: the images, those that have a label, or a sum of
    weights, for which `denominator` is overridden. Terms that are `Ratio`s are divided by a number
    that depends on the outputs.
    """

    divides_by: Counted = "images"

    def forward(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Ratio]:
        """The terms of a network's outputs by name."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Hear that a training is in an epoch, counted from 1; an evaluation is in none."""

    def see(self, dataset: Any) -> None:
        """Look at the data set whose batches follow, for what depends on its labels."""

    def denominator(self, batch: Batch) -> Tensor:
        """What the terms are divided by, a float32 scalar; 0 where nothing counts.

        It depends on the labels only, so that it is known before a network has run.
        """
        return paddle.full([], batch["image"].shape[0])


class Terms(dict[str, Tensor]):
    """The terms of a batch by name, each multiplied by its weight, and `loss`, their sum.

    parts: the sum of the terms of each loss, in the losses' order.
    ratios: of each loss, those of its terms that are such, divided by the batch's own number; with
        that number.
    denominators: of the terms, by name, that are not means over the images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Tensor] = []
        self.ratios: list[list[Ratio]] = []
        self.denominators: dict[str, Tensor] = {}

    def add(self, name: str, term: Tensor | Ratio) -> Tensor:
        """Note a term of the last loss; returns its value."""
        if isinstance(term, Ratio):
            count = term.divisor.clip(min=1)
            self.denominators[name] = count
            self.ratios[-1].append(Ratio(term.total / count, term.divisor))
            term = term.total / count
        self[name] = term
        return term


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
        self.by_images = {"images", "outputs", *(["labels"] if all_labelled else [])}

    def begin_epoch(self, epoch: int) -> None:
        """Tell all losses in which epoch a training is, from 1."""
        for loss in self.losses:
            loss.begin_epoch(epoch)

    def forward(self, outputs: Any, batch: Batch) -> Terms:
        """All terms and their sum."""
        terms = Terms()
        for index, (loss, denominator) in enumerate(zip(self.losses, self.denominators(batch))):
            found = {
                f"{name}_{index}" if name in terms else name: value
                for name, value in loss(outputs, batch).items()
            }
            terms.ratios.append([])
            terms.parts.append(sum(terms.add(name, value) for name, value in found.items()))
            if denominator is not None:
                terms.denominators.update(dict.fromkeys(found, denominator))
        terms["loss"] = sum(terms.values())
        return terms

    def denominators(self, batch: Batch) -> list[Tensor | None]:
        """What each loss's terms are divided by (scalars), as far as the labels tell it.

        None: the number of images, or what the outputs tell.
        """
        return [
            None if loss.divides_by in self.by_images else loss.denominator(batch)
            for loss in self.losses
        ]
