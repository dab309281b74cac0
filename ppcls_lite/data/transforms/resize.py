"""Resizing: the interpolation names of both backends, ResizeImage and Resize.

Lists of two numbers follow the reference toolkit: [width, height] in `ResizeImage`, but
[height, width] in `Resize` (which there comes from paddle.vision). Read next: crop.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Edge, Ignored, ImageSize, ScaledInt, ScaledSize
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.errors import UserError

CV2: Mapping[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "box": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
PIL: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
DRAWN: Mapping[str, tuple[str, ...]] = {  # what these draw from, for every image
    "random": ("bilinear", "bicubic"),
    "all": ("nearest", "bilinear", "bicubic", "area", "lanczos"),
}


@dataclass
class Resizer:
    """Resizes arrays by one backend and one interpolation; `None` is bilinear.

    When shrinking, Pillow averages over the pixels that fall together, OpenCV only for "area".
    "random" draws bilinear or bicubic for every image, "all" any of the five that both backends
    have. UserError for an unknown interpolation.
    """

    interpolation: str | None
    backend: str

    def __post_init__(self) -> None:
        self.interpolation = self.interpolation or "bilinear"
        known = CV2 if self.backend == "cv2" else PIL
        if self.interpolation not in (*known, *DRAWN):
            raise UserError(
                f"interpolation {self.interpolation!r} does not exist for backend "
                f"{self.backend!r}; expected one of {', '.join([*known, *DRAWN])}"
            )

    def __call__(self, image: np.ndarray, size: tuple[int, int], rng: Rng) -> np.ndarray:
        """Resize an (H, W, 3) uint8 image to `size` = (width, height)."""
        method = self.interpolation
        if method in DRAWN:
            drawn = DRAWN[method]
            method = drawn[rng.integers(len(drawn))] if rng is not None else drawn[0]
        if image.shape[1::-1] == size:
            return image
        if self.backend == "cv2":
            return cv2.resize(image, size, interpolation=CV2[method])
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, PIL[method]))


def width_height(size: int | Sequence[int], where: str) -> tuple[int, int]:
    """A `size` argument as (width, height): one number for both, or a list [width, height]."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2:
        raise UserError(f"{where}: size has {len(pair)} numbers; expected one or [width, height]")
    return pair


@register("transform")
@dataclass
class ResizeImage:
    """Resize to `size` (a number or [width, height]), or the short edge to `resize_short`.

    `resize_short` wins if both are given and keeps the aspect ratio, rounding the long edge, or
    cutting its fraction off, as torchvision and timm do (`long_edge`). A
    multi-scale sample's own `size` (height, width) replaces `size`. `keep_ratio` resizes by one
    factor, so that the long edge is at most the larger number of `size` and the short edge at most
    the smaller; `size_divisor` then rounds both edges up to its multiples (PaddleSeg's Resize).
    """

    follows_size = True

    size: ImageSize | None = None
    resize_short: ScaledInt | None = None
    interpolation: (
        Literal[
            "nearest", "bilinear", "bicubic", "area", "box", "hamming", "lanczos", "random", "all"
        ]
        | None
    ) = None
    backend: Literal["cv2", "pil"] = "cv2"
    return_numpy: Ignored = True
    keep_ratio: bool = False
    size_divisor: Edge | None = None
    long_edge: Literal["round", "cut"] = "round"

    def __post_init__(self) -> None:
        if self.size is None and self.resize_short is None:
            raise UserError("ResizeImage: give 'size' or 'resize_short'")
        if self.size is not None:
            self.size = width_height(self.size, "ResizeImage")
        self.resizer = Resizer(self.interpolation, self.backend)

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        if self.resize_short is not None:
            height, width = geometry.size_of(sample)
            factor = self.resize_short / min(width, height)
            size = round(width * factor), round(height * factor)
            if self.long_edge == "cut":
                short = min(width, height)
                size = tuple(self.resize_short * edge // short for edge in (width, height))
        elif "size" in sample:
            size = sample["size"][::-1]
        else:
            size = self.size
        if self.keep_ratio and self.resize_short is None:
            edges = geometry.size_of(sample)[::-1]
            factor = min(max(size) / max(edges), min(size) / min(edges))
            size = tuple(max(1, round(factor * edge)) for edge in edges)
        if self.size_divisor:
            size = tuple(-(-edge // self.size_divisor) * self.size_divisor for edge in size)
        return geometry.resize(sample, *size, self.resizer, rng)


@register("transform")
class Resize:
    """Resize the short edge to `size`, or to exactly [height, width] if `size` is a list."""

    def __init__(
        self,
        size: ScaledSize,
        interpolation: Literal[
            "nearest", "bilinear", "bicubic", "area", "box", "hamming", "lanczos"
        ] = "bilinear",
        backend: Literal["cv2", "pil"] = "cv2",
    ) -> None:
        edges = (None, size) if isinstance(size, int) else (list(size)[::-1], None)
        self.operation = ResizeImage(*edges, interpolation, backend)

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        return self.operation(sample, rng)
