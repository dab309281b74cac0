"""Flips and rotations of the whole image, with boxes and mask. Read next: photometric.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Probability
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Sample
from ppcls_lite.data.transforms.resize import CV2
from ppcls_lite.errors import UserError


@register("transform")
@dataclass
class RandFlipImage:
    """Mirror with probability `prob`: `flip_code` 1 left-right, 0 top-bottom, -1 both at once."""

    flip_code: Literal[-1, 0, 1] = 1
    prob: Probability = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return geometry.flip(sample, self.flip_code) if rng.random() < self.prob else sample


@register("transform")
class RandomRot90:
    """Turn by 0 to 3 quarter turns counter-clockwise and note which.

    The number goes into `sample["random_rot90_orientation"]`, a `label_key` of CustomLabelDataset.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        times = int(rng.integers(4))
        sample["random_rot90_orientation"] = times
        return geometry.rotate90(sample, times)


@register("transform")
@dataclass
class RandomRotation:
    """With probability `prob`, rotate by an angle uniform in `degrees`.

    `degrees` is [low, high] or one number d for [-d, d]; positive is counter-clockwise. `center`
    is [x, y] in pixels, by default the image's centre; `expand` enlarges the image so that all of
    it stays visible (about the centre only); what lies outside is filled with `fill`.
    """

    degrees: float | list[float]
    prob: Probability = 0.5
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    expand: bool = False
    center: list[float] | None = None
    fill: float | list[float] = 0.0

    def __post_init__(self) -> None:
        degrees, center = self.degrees, self.center
        pair = (-abs(degrees), abs(degrees)) if isinstance(degrees, (int, float)) else degrees
        if len(pair) != 2 or pair[0] > pair[1]:
            raise UserError(f"RandomRotation: degrees is {degrees}; expected one or [low, high]")
        if center is not None and (len(center) != 2 or self.expand):
            raise UserError(
                f"RandomRotation: center is {center}; expected [x, y], and not with 'expand'"
            )
        self.degrees = pair
        self.fill = colour(self.fill, "RandomRotation: fill")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        angle = rng.uniform(*self.degrees)
        height, width = geometry.size_of(sample)
        source = geometry.rotation(angle, self.center or (width / 2, height / 2))
        if self.expand:
            cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
            new_width = math.ceil(width * cos + height * sin - 1e-6)
            new_height = math.ceil(width * sin + height * cos - 1e-6)
            # The new image's centre must map to the old one's.
            shift = np.array([(new_width - width) / 2, (new_height - height) / 2])
            source[:, 2] -= source[:, :2] @ shift
            width, height = new_width, new_height
        return geometry.warp(sample, source, (width, height), CV2[self.interpolation], self.fill)


def colour(value: float | list[float] | tuple[float, ...], where: str) -> tuple[float, ...]:
    """A colour argument as three numbers: one for all channels, or one each."""
    numbers = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
    if len(numbers) != 3:
        raise UserError(f"{where} has {len(numbers)} numbers; expected one or three")
    return numbers
