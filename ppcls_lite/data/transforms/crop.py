"""Crops: the centre (evaluation), a random part resized (ImageNet training), a random window.

Lists of two numbers are [width, height], as in the reference toolkit, except in `CenterCrop`
([height, width], which there comes from paddle.vision). Read next: orientation.py.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Edge, Ignored, ImageSize, Margin, PositiveFloat
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.resize import Resizer, width_height
from ppcls_lite.errors import UserError


def _require_room(sample: Sample, size: tuple[int, int], where: str) -> tuple[int, int]:
    """How many columns and rows the image has beyond `size` = (width, height)."""
    height, width = geometry.size_of(sample)
    if width < size[0] or height < size[1]:
        raise UserError(
            f"{where}: the image of {width}x{height} pixels is smaller than the crop of "
            f"{size[0]}x{size[1]}; put a ResizeImage or Padv2 before it"
        )
    return width - size[0], height - size[1]


@register("transform")
class CropImage:
    """Cut `size` (a number or [width, height]) out of the image's centre.

    A multi-scale sample's own `size` (height, width) replaces it.

    Raises:
        UserError: the image is smaller.
    """

    follows_size = True

    def __init__(self, size: ImageSize) -> None:
        self.size = width_height(size, "CropImage")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        size = sample["size"][::-1] if "size" in sample else self.size
        room_x, room_y = _require_room(sample, size, "CropImage")
        return geometry.crop(sample, room_x // 2, room_y // 2, *size)


@register("transform")
class CenterCrop:
    """Cut `size` (a number or [height, width]) out of the image's centre."""

    def __init__(self, size: ImageSize) -> None:
        self.operation = CropImage(size if isinstance(size, int) else list(size)[::-1])

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        return self.operation(sample, rng)


@register("transform")
class CropImageAtRatio:
    """Cut the central square of size / (size + pad) of the short edge and resize it to `size`."""

    def __init__(
        self,
        size: Edge,
        pad: Margin,
        interpolation: Literal["nearest", "bilinear", "bicubic", "area", "lanczos"] = "bilinear",
    ) -> None:
        self.size = size
        self.ratio = size / (size + pad)
        self.resizer = Resizer(interpolation, "cv2")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        height, width = geometry.size_of(sample)
        edge = max(1, int(self.ratio * min(height, width)))
        geometry.crop(sample, (width - edge) // 2, (height - edge) // 2, edge, edge)
        return geometry.resize(sample, self.size, self.size, self.resizer, rng)


@register("transform")
class RandCropImage:
    """Cut a random part and resize it to `size` (a number or [width, height]).

    The part's share of the image's area is uniform in `scale` (default 0.08 to 1), its aspect
    ratio width / height in `ratio` (default 3/4 to 4/3): uniform in the ratio itself, or with
    `use_log_aspect` in its logarithm, which makes wide and tall equally likely. Where the ratio
    leaves no room for the area, the area is limited instead of drawing again, as in the reference
    toolkit. A multi-scale sample's own `size` (height, width) replaces `size`. `progress_size`
    only matters to progressive training. Source: Szegedy et al., arXiv:1409.4842.
    """

    follows_size = True

    def __init__(
        self,
        size: ImageSize,
        progress_size: Ignored = None,
        scale: list[PositiveFloat] | None = None,
        ratio: list[PositiveFloat] | None = None,
        interpolation: Literal[
            "nearest", "bilinear", "bicubic", "area", "box", "hamming", "lanczos", "random"
        ]
        | None = None,
        use_log_aspect: bool = False,
        backend: Literal["cv2", "pil"] = "cv2",
    ) -> None:
        del progress_size
        self.size = width_height(size, "RandCropImage")
        self.scale = _interval(scale or (0.08, 1.0), "scale", 1.0)
        self.ratio = _interval(ratio or (3 / 4, 4 / 3), "ratio", math.inf)
        self.use_log_aspect = use_log_aspect
        self.resizer = Resizer(interpolation, backend)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        part = sample.pop("part", None)  # a DecodeImage that reduces has drawn it
        if part is None:
            height, width = geometry.size_of(sample)
            part = self.part(width, height, rng)
        geometry.crop(sample, *part)
        return geometry.resize(sample, *self.target(sample), self.resizer, rng)

    def target(self, sample: Sample) -> tuple[int, int]:
        """The (width, height) that a part of this sample is resized to."""
        return sample["size"][::-1] if "size" in sample else self.size

    def part(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """A random part (left, top, width, height) of an image."""
        part_width, part_height = self._size(width, height, rng)
        left = int(rng.integers(width - part_width + 1))
        top = int(rng.integers(height - part_height + 1))
        return left, top, part_width, part_height

    def _size(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int]:
        """A random (width, height) of the part to cut."""
        low, high = self.ratio
        if self.use_log_aspect:
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            aspect = rng.uniform(low, high)
        bound = min(width / height / aspect, height / width * aspect)
        share = rng.uniform(min(self.scale[0], bound), min(self.scale[1], bound))
        area = width * height * share
        part_width = int(math.sqrt(area * aspect) + 1e-6)  # a full edge must not lose a pixel
        part_height = int(math.sqrt(area / aspect) + 1e-6)
        return min(max(part_width, 1), width), min(max(part_height, 1), height)


@register("transform", aliases=("RandCropImageV2",))
class RandomCropImage:
    """Cut a window of `size` (a number or [width, height]) at a random place, without resizing.

    Raises:
        UserError: the image is smaller.
    """

    def __init__(self, size: ImageSize) -> None:
        self.size = width_height(size, "RandomCropImage")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        room_x, room_y = _require_room(sample, self.size, "RandomCropImage")
        left, top = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        return geometry.crop(sample, left, top, *self.size)


def _interval(pair: Any, name: str, limit: float) -> tuple[float, float]:
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= limit:
        raise UserError(
            f"RandCropImage: {name} is {list(pair)}; expected [low, high] with 0 < low <= high"
            + (f" <= {limit:g}" if math.isfinite(limit) else "")
        )
    return float(pair[0]), float(pair[1])
