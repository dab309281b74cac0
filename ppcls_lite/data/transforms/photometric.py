"""Random changes of colour and sharpness that leave geometry alone. Read next: autoaugment.py."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeFloat, PositiveInt, Probability
from ppcls_lite.data.transforms import pixels
from ppcls_lite.data.transforms.geometry import Sample
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
    motion_max_ksize: PositiveInt = 12
    motion_max_angle: PositiveInt = 45
    gaussian_max_ksize: PositiveInt = 12

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
