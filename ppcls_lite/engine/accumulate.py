"""What each batch's loss counts for in an update of several batches, on several ranks.

An update has the gradient of one large batch. There, a mean over images counts by the batch's share
of the images; a term that is divided by something else (the images with a label, a sum of class
weights) counts by its share of that, over all batches and ranks. A divisor that depends on the
outputs is known when the batch has run: it is that of the batch on all ranks, and the batches
count by their images. Only such terms cost a message between the ranks.
Read before: trainer.py, ../losses/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor

from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.tasks import Batch, Loss, Terms


@dataclass(frozen=True)
class Share:
    """Factors of a batch's losses: `images`, or one of `losses` where that is not None."""

    world: World
    images: float = 1.0
    losses: Sequence[Tensor | None] = ()

    def of(self, terms: Terms) -> Tensor:
        """What is to be propagated backward; all ranks call it together."""
        parts = _across_ranks(terms, self.world)
        if self.losses:
            pairs = zip(parts, self.losses)
            return sum(part * (self.images if own is None else own) for part, own in pairs)
        whole = terms["loss"] if parts is terms.parts else sum(parts)
        return whole if self.images == 1 else whole * self.images


def _across_ranks(terms: Terms, world: World) -> Sequence[Tensor]:
    """The parts of the losses, ratios divided by the mean of their numbers over the ranks."""
    own = [ratio.divisor for ratios in terms.ratios for ratio in ratios]
    if world.size == 1 or not own:
        return terms.parts
    counts = paddle.stack(own).detach()  # (R,)
    # their sum is never below 1, nor is what each rank has divided by
    means = (world.total(counts.clone()) / world.size).clip(min=1 / world.size)
    factors = iter(counts.clip(min=1) / means)
    return [
        sum(ratio.total * next(factors) for ratio in ratios) if ratios else part
        for part, ratios in zip(terms.parts, terms.ratios)
    ]


def shares(loss: Loss, batches: Sequence[Batch], world: World) -> list[Share]:
    """The share of each of this rank's batches in one update; all ranks call it together.

    The gradients of the ranks are averaged afterwards, so that these shares add up to the number
    of ranks for a term with a denominator of its own.
    """
    sizes = [batch["image"].shape[0] for batch in batches]
    images = [size / sum(sizes) for size in sizes]
    if len(batches) == world.size == 1:
        return [Share(world)]
    found = [loss.denominators(batch) for batch in batches]
    own = [place for place, denominator in enumerate(found[0]) if denominator is not None]
    if not own:
        return [Share(world, part) for part in images]
    counts = paddle.stack([paddle.stack([row[place] for place in own]) for row in found])  # (B, L)
    # where nothing counts, on no rank, all terms are 0 as well
    means = (world.total(counts.sum(axis=0)) / world.size).clip(min=1e-12)  # (L,)
    factors = counts / means  # (B, L)
    return [
        Share(world, part, [row[own.index(i)] if i in own else None for i in range(len(found[0]))])
        for part, row in zip(images, factors)
    ]
