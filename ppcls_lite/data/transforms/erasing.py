"""Hiding parts of an image: RandomErasing and Cutout. Read next: compose.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    ScaledInt,
)
from ppcls_lite.data.transforms.geometry import Sample, size_of
from ppcls_lite.data.transforms.normalize import IMAGENET_MEAN, IMAGENET_STD
from ppcls_lite.data.transforms.orientation import colour
from ppcls_lite.errors import UserError


@register("transform")
@dataclass
class RandomErasing:
    """With probability `EPSILON`, replace one random rectangle.

    Source: arXiv:1708.04896. Its share of the area is uniform in [sl, sh], its aspect ratio in [r1,
    1 / r1], with `use_log_aspect` in the logarithm; one that does not fit is drawn again, at most
    `attempt` times. `mode` "const" fills with `mean` in the image's own scale, "rand" with one
    random colour, "pixel" with noise: normal with deviation 1 on a normalised (float) image, and
    the same in ImageNet's normalisation on an 8-bit image.
    """

    EPSILON: Probability = 0.5
    sl: Probability = 0.02
    sh: Probability = 0.4
    r1: PositiveFloat = 0.3
    mean: list[float] = (0.0, 0.0, 0.0)
    attempt: PositiveInt = 100
    use_log_aspect: bool = False
    mode: Literal["const", "rand", "pixel"] = "const"

    def __post_init__(self) -> None:
        sl, sh, r1 = self.sl, self.sh, self.r1
        if sl > sh or r1 > 1:
            raise UserError(f"RandomErasing: sl {sl}, sh {sh}, r1 {r1}; expected sl <= sh, r1 <= 1")
        self.aspect = (r1, 1 / r1)
        self.mean = colour(self.mean, "RandomErasing: mean")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.EPSILON:
            return sample
        height, width = size_of(sample)
        for _ in range(self.attempt):
            area = rng.uniform(self.sl, self.sh) * height * width
            if self.use_log_aspect:
                aspect = math.exp(rng.uniform(*(math.log(a) for a in self.aspect)))
            else:
                aspect = rng.uniform(*self.aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                image = sample["image"].copy()  # it may be a view of somebody else's array
                image[top : top + h, left : left + w] = self._fill(h, w, image.dtype, rng)
                sample["image"] = image
                break
        return sample

    def _fill(self, h: int, w: int, dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
        if self.mode == "const":
            fill = np.array(self.mean)
        else:
            shape = (h, w, 3) if self.mode == "pixel" else (1, 1, 3)
            fill = rng.standard_normal(shape, np.float32)
            if dtype == np.uint8:
                fill = 255 * (np.array(IMAGENET_MEAN) + fill * np.array(IMAGENET_STD))
        return fill.clip(0, 255).astype(dtype) if dtype == np.uint8 else fill.astype(dtype)


@register("transform")
@dataclass
class Cutout:
    """Cover `n_holes` squares of `length` pixels, centred anywhere, so that the edge cuts some.

    `fill_value` is their colour; "none" or null draws one for each. Source: arXiv:1708.04552.
    """

    n_holes: PositiveInt = 1
    length: ScaledInt = 112
    fill_value: list[NonNegativeInt] | Literal["none"] | None = (0, 0, 0)

    def __post_init__(self) -> None:
        drawn = self.fill_value in ("none", None)
        self.fill = None if drawn else colour(self.fill_value, "Cutout: fill")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = size_of(sample)
        image = sample["image"].copy()  # it may be a view of somebody else's array
        for _ in range(self.n_holes):
            top = int(rng.integers(height)) - self.length // 2
            left = int(rng.integers(width)) - self.length // 2
            rows = slice(max(top, 0), max(top + self.length, 0))
            columns = slice(max(left, 0), max(left + self.length, 0))
            image[rows, columns] = rng.integers(256, size=3) if self.fill is None else self.fill
        sample["image"] = image
        return sample
