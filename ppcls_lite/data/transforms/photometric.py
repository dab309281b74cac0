"""Random changes that leave geometry alone: of colour, of sharpness, and hidden parts.

Read before: pixels.py. Read next: autoaugment.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    BelowOne,
    HueSteps,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Repeats,
    ScaledInt,
)
from ppcls_lite.data.transforms import pixels
from ppcls_lite.data.transforms.geometry import Sample, size_of
from ppcls_lite.data.transforms.normalize import IMAGENET_MEAN, IMAGENET_STD
from ppcls_lite.data.transforms.orientation import colour
from ppcls_lite.errors import UserError


@register("transform")
@dataclass
class ColorJitter:
    """With probability `prob`, vary brightness, contrast, saturation and hue in random order.

    A number v draws the factor from [max(0, 1 - v), 1 + v], a list [low, high] from it; for `hue`
    the shift, as a share of the circle, comes from [-v, v] with v at most 0.5.
    """

    prob: Probability = 1.0
    brightness: NonNegativeFloat | list[NonNegativeFloat] = 0.0
    contrast: NonNegativeFloat | list[NonNegativeFloat] = 0.0
    saturation: NonNegativeFloat | list[NonNegativeFloat] = 0.0
    hue: NonNegativeFloat | list[float] = 0.0

    def __post_init__(self) -> None:
        steps = (
            (pixels.brightness, _interval(self.brightness, "brightness", 1.0)),
            (pixels.contrast, _interval(self.contrast, "contrast", 1.0)),
            (pixels.color, _interval(self.saturation, "saturation", 1.0)),
            (pixels.hue, _interval(self.hue, "hue", 0.0)),
        )
        self.steps = [(step, limits) for step, limits in steps if limits is not None]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        for position in rng.permutation(len(self.steps)):
            step, limits = self.steps[position]
            sample["image"] = step(sample["image"], rng.uniform(*limits))
        return sample


@register("transform")
@dataclass
class RandomDistort:
    """Vary brightness, contrast, saturation, hue and sharpness in random order, as PaddleSeg does.

    Each with its own probability; a factor is drawn from [1 - range, 1 + range], the hue's shift
    from [-hue_range, hue_range] of 256 steps of the circle.
    """

    brightness_range: BelowOne = 0.5
    brightness_prob: Probability = 0.5
    contrast_range: BelowOne = 0.5
    contrast_prob: Probability = 0.5
    saturation_range: BelowOne = 0.5
    saturation_prob: Probability = 0.5
    hue_range: HueSteps = 18
    hue_prob: Probability = 0.5
    sharpness_range: BelowOne = 0.5
    sharpness_prob: Probability = 0.0

    def __post_init__(self) -> None:
        shift = self.hue_range / 256
        self.steps = (
            (pixels.brightness, 1.0, self.brightness_range, self.brightness_prob),
            (pixels.contrast, 1.0, self.contrast_range, self.contrast_prob),
            (pixels.color, 1.0, self.saturation_range, self.saturation_prob),
            (pixels.hue, 0.0, shift, self.hue_prob),
            (pixels.sharpness, 1.0, self.sharpness_range, self.sharpness_prob),
        )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for position in rng.permutation(len(self.steps)):
            step, neutral, width, prob = self.steps[position]
            if rng.random() < prob:
                value = rng.uniform(neutral - width, neutral + width)
                sample["image"] = step(sample["image"], value)
        return sample


def _interval(value: float | list[float], name: str, neutral: float) -> tuple[float, float] | None:
    """The range to draw from; `None` if nothing would change."""
    if isinstance(value, (int, float)):
        low, high = neutral - value, neutral + value
        low = max(low, 0.0) if neutral else low
    else:
        low, high = value if len(value) == 2 else (1.0, 0.0)
    if low > high or (not neutral and (low < -0.5 or high > 0.5)):
        limits = "" if neutral else " within -0.5 and 0.5"
        raise UserError(f"ColorJitter: {name} is {value}; expected one or [low, high]{limits}")
    return None if low == high == neutral else (low, high)


@register("transform")
@dataclass
class RandomGrayscale:
    """With probability `p`, make the image gray; it keeps its three channels."""

    p: Probability = 0.1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() < self.p:
            sample["image"] = pixels.grayscale(sample["image"])
        return sample


@register("transform")
@dataclass
class BlurImage:
    """Blur with probability `ratio`, by a Gaussian or by motion, and note whether.

    The note goes into `sample["blur_image"]`, 1 or 0, a `label_key` of CustomLabelDataset. Kernel
    sizes are odd, from 5 to below the given maxima; motion runs within `motion_max_angle` degrees
    of the diagonal. Unlike the reference toolkit, motion keeps mean brightness and contrast, which
    would give the label away.
    """

    ratio: Probability = 0.5
    motion_max_ksize: Repeats = 12
    motion_max_angle: PositiveInt = 45
    gaussian_max_ksize: Repeats = 12

    def __post_init__(self) -> None:
        if min(self.motion_max_ksize, self.gaussian_max_ksize) < 6:
            raise UserError("BlurImage: motion_max_ksize and gaussian_max_ksize must be at least 6")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        blurred = bool(rng.random() < self.ratio)
        sample["blur_image"] = int(blurred)
        if blurred:
            blur = self._gaussian if rng.random() < 0.5 else self._motion
            sample["image"] = blur(sample["image"], rng)
        return sample

    def _gaussian(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sizes = [_odd(self.gaussian_max_ksize, rng) for _ in range(2)]
        return cv2.GaussianBlur(image, sizes, 0)

    def _motion(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = _odd(self.motion_max_ksize, rng)
        angle = int(rng.integers(-self.motion_max_angle, self.motion_max_angle))
        turn = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, 1)
        kernel = cv2.warpAffine(np.eye(size, dtype=np.float32), turn, (size, size))
        return cv2.filter2D(image, -1, kernel / kernel.sum())


def _odd(limit: int, rng: np.random.Generator) -> int:
    """An odd number from 5 to below `limit`."""
    return int(rng.choice(np.arange(5, limit, 2)))


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
    attempt: Repeats = 100
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

    n_holes: Repeats = 1
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
