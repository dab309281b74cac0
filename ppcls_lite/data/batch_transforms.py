"""Mixing the images and labels of a batch: Mixup, CutMix and a random choice between them.

Called as `op(batch, rng)` with collated arrays: `image` (N, H, W, C) or (N, C, H, W), `label` (N,)
integers or (N, class_num) floats; the result has soft labels (N, class_num) float32.
Read next: loader.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PositiveFloat
from ppcls_lite.errors import ConfigError, UserError

Batch = dict[str, Any]


@register("batch_transform")
@dataclass
class MixupOperator:
    """Blend every image with another one of the batch, and the labels alike.

    One weight for the batch, drawn from Beta(alpha, alpha). 8-bit images become float32 in the
    range 0 to 255: rounding again would add noise. Source: arXiv:1710.09412.
    """

    class_num: ClassCount
    alpha: PositiveFloat = 1.0

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        weight = np.float32(rng.beta(self.alpha, self.alpha))
        partner = rng.permutation(len(batch["image"]))
        images = batch["image"].astype(np.float32)  # a copy, also of float32
        others = images[partner]
        images *= weight
        others *= 1 - weight
        images += others
        return batch | {"image": images, "label": _mixed(batch, partner, weight, self.class_num)}


@register("batch_transform")
@dataclass
class CutmixOperator:
    """Replace one rectangle of every image by that of another one of the batch.

    The rectangle has the image's shape and, before the border cuts it, the share 1 - w of its
    area with w from Beta(alpha, alpha); labels are weighted by the area really replaced.
    Source: arXiv:1905.04899.
    """

    class_num: ClassCount
    alpha: PositiveFloat = 0.2

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        images = batch["image"].copy()
        planes = images if _channels_last(images) else images.transpose(0, 2, 3, 1)  # (N, H, W, C)
        height, width = planes.shape[1:3]
        edge = np.sqrt(1 - rng.beta(self.alpha, self.alpha))
        rows, columns = _span(height, edge, rng), _span(width, edge, rng)
        partner = rng.permutation(len(images))
        planes[:, rows, columns] = planes[partner][:, rows, columns]
        replaced = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        weight = np.float32(1 - replaced)
        return batch | {"image": images, "label": _mixed(batch, partner, weight, self.class_num)}


@register("batch_transform")
class OpSampler:
    """Apply one of its operators, drawn anew for every batch by their `prob`, or none.

    In the YAML: `OpSampler: {MixupOperator: {alpha: 0.8, prob: 0.5}, CutmixOperator: {prob: 0.5}}`;
    what the probabilities leave of 1 is the chance that the batch stays as it is. ConfigError for
    no operator, an unknown argument, or probabilities that do not fit.
    """

    def __init__(
        self,
        class_num: ClassCount,
        MixupOperator: dict[str, float] | None = None,
        CutmixOperator: dict[str, float] | None = None,
    ) -> None:
        given = {"MixupOperator": MixupOperator, "CutmixOperator": CutmixOperator}
        self.choices = [
            _choice(name, dict(arguments), class_num)
            for name, arguments in given.items()
            if arguments is not None
        ]
        total = sum(prob for prob, _ in self.choices)
        if not self.choices or total > 1 + 1e-6:
            raise ConfigError(
                f"OpSampler: {len(self.choices)} operators with a total prob of {total:g}; "
                "expected at least one and a total of at most 1"
            )

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        draw = rng.random()
        for prob, operator in self.choices:
            if draw < prob:
                return operator(batch, rng)
            draw -= prob
        return batch


def _choice(
    name: str, arguments: dict[str, float], class_num: int
) -> tuple[float, Callable[[Batch, np.random.Generator], Batch]]:
    operator = {"MixupOperator": MixupOperator, "CutmixOperator": CutmixOperator}[name]
    prob = arguments.pop("prob", None)
    where = f"OpSampler.{name}"
    if prob is None or not 0 <= prob <= 1:
        raise ConfigError(f"{where}.prob: got {prob}; expected a number between 0 and 1")
    known = set(inspect.signature(operator).parameters) - {"class_num"}
    for argument, value in arguments.items():
        if argument not in known:
            raise ConfigError(f"{where}: no argument {argument!r}; expected prob, alpha")
        if not value > 0:
            raise ConfigError(f"{where}.{argument}: got {value}; expected a number above 0")
    return prob, operator(class_num, **arguments)


def _mixed(batch: Batch, partner: np.ndarray, weight: np.float32, class_num: int) -> np.ndarray:
    """weight * own label + (1 - weight) * partner's, (N, class_num) float32.

    An attribute that one of the two does not know (-1) is not known of their mixture.
    """
    labels = np.asarray(batch["label"])
    if labels.ndim == 2 and labels.shape[1] == class_num:
        soft = labels.astype(np.float32)
    elif labels.ndim == 3:
        raise UserError(
            "mixing labels: the labels hold the attributes' shares as well, which cannot be mixed: "
            "set label_ratio: false in the data set, or leave out batch_transform_ops"
        )
    else:
        indices = labels.reshape(-1)
        if len(indices) != len(labels) or indices.min() < 0 or indices.max() >= class_num:
            raise UserError(
                f"mixing labels: got shape {labels.shape} with values up to {labels.max()}; "
                f"expected class indices 0 to {class_num - 1} or (N, {class_num})"
            )
        soft = np.zeros((len(labels), class_num), np.float32)
        soft[np.arange(len(labels)), indices.astype(np.int64)] = 1
    mixed = weight * soft + (1 - weight) * soft[partner]  # (N, class_num)
    return np.where((soft < 0) | (soft[partner] < 0), np.float32(-1), mixed)


def _channels_last(images: np.ndarray) -> bool:
    """(N, H, W, C), told from (N, C, H, W) by where the few channels are."""
    return images.shape[3] in (1, 3, 4) and (
        images.dtype == np.uint8 or images.shape[1] not in (1, 3, 4)
    )


def _span(length: int, share: float, rng: np.random.Generator) -> slice:
    """A stretch of `share` of `length`, centred anywhere and cut off at the ends."""
    cut = int(length * share)
    start = int(rng.integers(length)) - cut // 2
    return slice(max(start, 0), max(min(start + cut, length), 0))
