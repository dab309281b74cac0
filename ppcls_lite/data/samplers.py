"""Which samples form which batch: the order of an epoch, cut into batches, shared among ranks.

A sampler is a pure function of (seed, epoch): a resumed run asks for `batches(12, start_step=700)`
and gets the batches that it missed. All ranks draw the same order and take neighbouring blocks of
it, so that two ranks with 16 images see in each step what one rank with 32 sees.
Read next: loader.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Edge, PositiveInt, Probability, Repeats, ScaledSizes, Seed
from ppcls_lite.errors import UserError


class SampleKey(NamedTuple):
    """One sample of one epoch; `size` (height, width) comes from multi-scale samplers, `copy`
    tells apart the samples of one image within an epoch."""

    index: int
    epoch: int = 0
    size: tuple[int, int] | None = None
    copy: int = 0


class BatchSampler:
    """What the samplers share; a subclass draws the sizes of an epoch's steps (`_draw`)."""

    seed: int
    shuffle: bool
    drop_last: bool
    batch_size: int  # images a step on one rank; the first scale's, where they differ
    changes_size: bool = False  # whether the keys have a `size` that differs from step to step
    copies: bool = (
        False  # whether an image comes several times in an epoch, each time augmented anew
    )

    def see(self, dataset: Any) -> None:
        """Look at the data set that is drawn from, before `bind`."""

    def bind(
        self, length: int, num_replicas: int = 1, rank: int = 0, evaluation: bool = False
    ) -> BatchSampler:
        """Set the number of samples and this process's place among `num_replicas`; returns self.

        Training fills the last step up with samples from the epoch's beginning, so that every rank
        has equally many. An evaluation counts every sample exactly once, so the last step may be
        smaller on some ranks, or missing.
        """
        if length < 1:
            raise UserError("the data set is empty: there is nothing to draw batches from")
        self.length, self.num_replicas, self.rank = length, num_replicas, rank
        self.evaluation = evaluation
        steps, start = [], 0  # (where it begins in the epoch's order, images a rank, their size)
        for batch_size, size in self._draw(length / num_replicas):
            steps.append((start, batch_size, size))
            start += batch_size * num_replicas
        if not steps:
            raise UserError(
                f"drop_last: True leaves no batch: {length} images, but the smallest step takes "
                f"{self.batch_size} on each of {num_replicas} ranks; use a smaller batch or "
                "drop_last: False"
            )
        if evaluation and not len(self._share(np.arange(length), *steps[-1][:2])):
            steps.pop()  # the other ranks take what is left
        self._steps = steps
        self._stretched: tuple[int, int] | None = None
        return self

    def stretch(self, steps: int, total: int) -> None:
        """Let epochs be `steps` steps each, whatever that is of the data set; `total` steps in all.

        They follow one another through the passes over the data, each of which has its own order.
        """
        self._stretched = steps, total

    def changes_score(self) -> str | None:
        """What of it would change which or what images an evaluation scores; None: nothing."""
        return "drop_last: true leaves images out" if self.drop_last else None

    def _draw(self, images: float) -> Iterator[tuple[int, tuple[int, int] | None]]:
        """(batch size, image size) of each step, for that many images a rank."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Steps an epoch on this rank; the last epoch of a stretched run may have fewer."""
        return self._stretched[0] if self._stretched else len(self._steps)

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[list[SampleKey]]:
        """The batches of an epoch on this rank, from `start_step` on."""
        return (batch for _, batch in self.numbered(epoch, start_step))

    def numbered(self, epoch: int, start_step: int = 0) -> Iterator[tuple[int, list[SampleKey]]]:
        """The batches, each with its place in its pass over the data."""
        if self._stretched is None:
            yield from enumerate(self._pass(epoch, start_step), start_step)
            return
        steps, total = self._stretched
        done, end = (epoch - 1) * steps + start_step, min(epoch * steps, total)
        while done < end:
            number, place = divmod(done, len(self._steps))
            part = enumerate(self._pass(1 + number, place), place)
            yield from itertools.islice(part, end - done)
            done += len(self._steps) - place

    def _pass(self, epoch: int, start_step: int) -> Iterator[list[SampleKey]]:
        order = self._order(epoch)
        for start, batch_size, size in self._steps[start_step:]:
            share = self._share(order, start, batch_size)
            yield [self._key(place, epoch, size) for place in share.tolist()]

    def _key(self, place: int, epoch: int, size: tuple[int, int] | None) -> SampleKey:
        """The sample that a number in an epoch's order stands for."""
        return SampleKey(place, epoch, size)

    def _order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch (length,), one after another."""
        if not self.shuffle:
            return np.arange(self.length)
        # The last numbers keep this stream apart from those of the samples.
        return np.random.default_rng((self.seed, epoch, 0, 0, 1)).permutation(self.length)

    def _share(self, order: np.ndarray, start: int, batch_size: int) -> np.ndarray:
        """This rank's part of a step."""
        block = self._block(order, start, batch_size)
        return np.array_split(block, self.num_replicas)[self.rank]

    def _block(self, order: np.ndarray, start: int, batch_size: int) -> np.ndarray:
        """A step's samples on all ranks."""
        block = order[start : start + batch_size * self.num_replicas]
        missing = 0 if self.evaluation else -len(block) % self.num_replicas
        return np.concatenate([block, np.resize(order, missing)])


@register("sampler")
@dataclass(eq=False)
class DistributedBatchSampler(BatchSampler):
    """Batches of one size; the sampler of a recipe that names none.

    `batch_size` counts on each rank; `drop_last` leaves out the last, smaller batch.
    """

    batch_size: PositiveInt
    shuffle: bool = False
    drop_last: bool = False
    seed: Seed = 0

    def _draw(self, images: float) -> Iterator[tuple[int, None]]:
        steps = images / self.batch_size
        for _ in range(math.floor(steps) if self.drop_last else math.ceil(steps)):
            yield self.batch_size, None


@register("sampler")
@dataclass(eq=False)
class ClassBalancedSampler(BatchSampler):
    """Batches in which rare classes come more often than in the data; for training.

    A class with n images is drawn in proportion to n to the power of 1 - `balance`: 1 draws all
    classes equally often, 0 as the data has them (Mahajan et al. 2018, arXiv 1805.00932, section
    2.2, has 0.5). An epoch has as many images as the data set; of a class, each comes once before
    one comes again.
    """

    batch_size: PositiveInt
    balance: Probability = 1.0
    shuffle: bool = True
    drop_last: bool = False
    seed: Seed = 0

    def see(self, dataset: Any) -> None:
        labels = dataset.labels
        if labels is None or labels.ndim != 1:
            raise UserError("ClassBalancedSampler needs a data set with one class for each image")
        self._members = [np.flatnonzero(labels == c) for c in np.unique(labels)]

    def changes_score(self) -> str | None:
        return "ClassBalancedSampler leaves images out"

    def _draw(self, images: float) -> Iterator[tuple[int, None]]:
        yield from DistributedBatchSampler._draw(self, images)

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch, 0, 0, 1))
        share = np.array([len(members) for members in self._members]) ** (1.0 - self.balance)
        classes = rng.choice(len(self._members), self.length, p=share / share.sum())
        order = np.empty(self.length, np.int64)
        for number, members in enumerate(self._members):
            places = np.flatnonzero(classes == number)
            rounds = -(-len(places) // len(members))
            drawn = [rng.permutation(members) for _ in range(rounds)]
            order[places] = np.concatenate([*drawn, members[:0]])[: len(places)]
        return order


@register("sampler")
@dataclass(eq=False)
class RepeatedAugSampler(BatchSampler):
    """Batches that hold each of their images `repeats` times, augmented anew each time.

    Hoffer et al. 2020 (arXiv 1901.09335); Touvron et al. 2020 (arXiv 2012.12877) train with 3. An
    epoch has as many samples as the data set, so of `repeats` images one comes in it. The samples
    of an image are neighbours in the epoch's order, and ranks are dealt them in turn: with as many
    ranks as `repeats`, each sees every image of the step once.
    """

    batch_size: PositiveInt
    repeats: Repeats = 3
    shuffle: bool = True
    drop_last: bool = False
    seed: Seed = 0

    copies = True

    def changes_score(self) -> str | None:
        return "RepeatedAugSampler shows some images several times and leaves others out"

    def _draw(self, images: float) -> Iterator[tuple[int, None]]:
        yield from DistributedBatchSampler._draw(self, images)

    def _order(self, epoch: int) -> np.ndarray:
        images = super()._order(epoch)[:, None] * self.repeats
        return (images + np.arange(self.repeats)).reshape(-1)[: self.length]

    def _share(self, order: np.ndarray, start: int, batch_size: int) -> np.ndarray:
        return self._block(order, start, batch_size)[self.rank :: self.num_replicas]

    def _key(self, place: int, epoch: int, size: tuple[int, int] | None) -> SampleKey:
        index, copy = divmod(place, self.repeats)
        return SampleKey(index, epoch, size, copy)


@register("sampler")
@dataclass(eq=False)
class MultiScaleSampler(BatchSampler):
    """Batches whose image size changes from step to step, with about equally many pixels each.

    Mehta et al., MobileViT (arXiv 2110.02178), section 3.2. Which size a step has is drawn once
    from the seed: the same for every epoch and rank.

    Args:
        scales: sides of square images, or [width, height] pairs.
        first_bs: images a step on each rank at the first scale; others in inverse proportion to
            their pixels.
        divided_factor: sides are rounded down to a multiple of it (the network's stride).
        is_training: False takes the first scale only and keeps the list's order.
        drop_last: leave out the last batch where it is smaller than its size allows.
    """

    scales: ScaledSizes
    first_bs: PositiveInt
    divided_factor: Edge = 32
    is_training: bool = True
    shuffle: bool = True
    drop_last: bool = False
    seed: Seed = 0

    changes_size = True

    def __post_init__(self) -> None:
        self.shuffle = self.shuffle and self.is_training
        sides = [tuple(s) if isinstance(s, (list, tuple)) else (s, s) for s in self.scales]
        factor = self.divided_factor
        for scale, pair in zip(self.scales, sides):
            if len(pair) != 2 or min(pair) < factor:
                raise UserError(
                    f"scales: expected sides of at least divided_factor = {factor} "
                    f"or [width, height] pairs, found {scale}"
                )
        if not sides:
            raise UserError("scales: expected at least one side length, found an empty list")
        self.batch_size = self.first_bs
        pixels = sides[0][0] * sides[0][1] * self.first_bs
        self.choices = [(self.first_bs, (sides[0][1], sides[0][0]))]
        if self.is_training:
            rounded = [[s // factor * factor for s in pair] for pair in sides]
            self.choices = [(max(1, pixels // (w * h)), (h, w)) for w, h in rounded]

    def changes_score(self) -> str | None:
        if len(self.choices) > 1:
            return "is_training: true changes the images' size from batch to batch"
        return super().changes_score()

    def _draw(self, images: float) -> Iterator[tuple[int, tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, 0, 0, 0, 2))
        while images > 0:
            batch_size, size = self.choices[rng.integers(len(self.choices))]
            images -= batch_size
            if images < 0 and self.drop_last:
                return
            yield batch_size, size


@register("sampler")
@dataclass(eq=False)
class MultiSizeBatchSampler(BatchSampler):
    """Batches of one number of images whose size changes from step to step (multi-scale training).

    The transforms that follow a batch's size (ResizeImage, LetterboxImage, RandCropImage, ...) take
    it in place of their own. Which size a step has is drawn once from the seed, each as likely as
    the others: the same for every epoch and rank.

    Args:
        sizes: sides of square images, or [width, height] pairs.
        batch_size: images a step on each rank, whatever their size.
        divided_factor: what every side has to be a multiple of (the network's largest stride).
    """

    sizes: ScaledSizes
    batch_size: PositiveInt
    divided_factor: Edge = 32
    shuffle: bool = True
    drop_last: bool = False
    seed: Seed = 0

    changes_size = True

    def __post_init__(self) -> None:
        pairs = [tuple(s) if isinstance(s, (list, tuple)) else (s, s) for s in self.sizes]
        factor = self.divided_factor
        wrong = [p for p in pairs if len(p) != 2 or any(side % factor for side in p)]
        if wrong or not pairs:
            found = wrong[0] if wrong else "an empty list"
            raise UserError(
                f"sizes: expected multiples of divided_factor = {factor}, or [width, height] "
                f"pairs of them, found {found}"
            )
        self.choices = [(height, width) for width, height in pairs]

    def changes_score(self) -> str | None:
        if len(self.choices) > 1:
            return "MultiSizeBatchSampler changes the images' size from batch to batch"
        return super().changes_score()

    def _draw(self, images: float) -> Iterator[tuple[int, tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, 0, 0, 0, 2))
        steps = images / self.batch_size
        for _ in range(math.floor(steps) if self.drop_last else math.ceil(steps)):
            yield self.batch_size, self.choices[rng.integers(len(self.choices))]
