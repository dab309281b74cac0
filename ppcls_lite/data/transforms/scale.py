"""Resizing that keeps the aspect ratio: by a random factor, or so that a side has a given length.

The names and defaults are PaddleSeg's. Read before: resize.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Edge, Interpolation, NonNegativeFloat, PositiveFloat, ScaledInt
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.resize import Resizer
from ppcls_lite.errors import UserError


def _scaled(sample: Sample, factor: float, resizer: Resizer, rng: Rng = None) -> Sample:
    height, width = geometry.size_of(sample)
    size = (max(1, round(factor * edge)) for edge in (width, height))
    return geometry.resize(sample, *size, resizer, rng)


@register("transform", aliases=("ResizeStepScaling",))
@dataclass
class RandomScaleImage:
    """Resize by a random factor: one of `min_scale`, ..., `max_scale`, `step` apart.

    `step` 0 draws it uniformly from the whole interval. (PaddleSeg's ResizeStepScaling.)
    """

    min_scale: PositiveFloat = 0.75
    max_scale: PositiveFloat = 1.25
    step: NonNegativeFloat = 0.25
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise UserError(
                f"RandomScaleImage: min_scale {self.min_scale:g} is above max_scale "
                f"{self.max_scale:g}"
            )
        self.factors: np.ndarray | None = None
        if self.step:
            count = int((self.max_scale - self.min_scale) / self.step + 1 + 1e-9)
            if count > 10_000:
                raise UserError(f"RandomScaleImage: step {self.step:g} makes {count:,} factors")
            self.factors = np.linspace(self.min_scale, self.max_scale, count)
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self.factors is None:
            factor = rng.uniform(self.min_scale, self.max_scale)
        else:
            factor = self.factors[rng.integers(len(self.factors))]
        return _scaled(sample, float(factor), self.resizer, rng)


@register("transform")
@dataclass
class ResizeByLong:
    """Resize so that the long edge has `long_size` pixels."""

    long_size: ScaledInt = 800
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        return _scaled(sample, self.long_size / max(geometry.size_of(sample)), self.resizer)


@register("transform")
@dataclass
class ResizeByShort:
    """Resize so that the short edge has `short_size` pixels, and the long one at most `max_size`.

    Each image by itself: PaddleSeg's keeps the smaller factor for all later images once `max_size`
    has set in.
    """

    short_size: ScaledInt = 500
    max_size: ScaledInt | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        size = geometry.size_of(sample)
        factor = self.short_size / min(size)
        if self.max_size is not None:
            factor = min(factor, self.max_size / max(size))
        return _scaled(sample, factor, self.resizer)


@register("transform")
@dataclass
class ResizeRangeScaling:
    """Resize so that the long edge has a random length from `min_value` to `max_value`."""

    min_value: ScaledInt = 400
    max_value: ScaledInt = 600
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.min_value > self.max_value:
            raise UserError(
                f"ResizeRangeScaling: min_value {self.min_value} is above max_value "
                f"{self.max_value}"
            )
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        long_size = int(rng.integers(self.min_value, self.max_value + 1))
        return _scaled(sample, long_size / max(geometry.size_of(sample)), self.resizer, rng)


@register("transform")
@dataclass
class LimitLong:
    """Resize only where the long edge is above `max_long` or below `min_long`, to that length."""

    max_long: Edge | None = None
    min_long: Edge | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.max_long and self.min_long and self.min_long > self.max_long:
            raise UserError(
                f"LimitLong: min_long {self.min_long} is above max_long {self.max_long}"
            )
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        long = max(geometry.size_of(sample))
        target = max(min(long, self.max_long or long), self.min_long or 0)
        return sample if target == long else _scaled(sample, target / long, self.resizer)
