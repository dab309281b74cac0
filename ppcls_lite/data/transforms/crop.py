"""Crops (the centre, a random part resized, a random window) and padding, by borders or to a size.

Lists of two numbers are [width, height], as in the reference toolkit, except in `CenterCrop`
([height, width], which there comes from paddle.vision). Read next: orientation.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Edge,
    Ignored,
    ImageSize,
    Interpolation,
    Level,
    Margin,
    PositiveFloat,
    Probability,
)
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.orientation import colour
from ppcls_lite.data.transforms.resize import Resizer, width_height
from ppcls_lite.errors import ImageError, UserError

_TRIES = 10  # windows that RandomPadCrop looks at for one with several classes


def _require_room(sample: Sample, size: tuple[int, int], where: str) -> tuple[int, int]:
    """How many columns and rows the image has beyond `size` = (width, height)."""
    height, width = geometry.size_of(sample)
    if width < size[0] or height < size[1]:
        raise ImageError(
            f"{where}: the image of {width}x{height} pixels is smaller than the crop of "
            f"{size[0]}x{size[1]}; put a ResizeImage or Padv2 before it"
        )
    return width - size[0], height - size[1]


@register("transform")
class CropImage:
    """Cut `size` (a number or [width, height]) out of the image's centre.

    A multi-scale sample's own `size` (height, width) replaces it. ImageError for a smaller image.
    `offset` says what becomes of half a pixel; torchvision and timm round it (to the even number).
    """

    follows_size = True

    def __init__(self, size: ImageSize, offset: Literal["cut", "round"] = "cut") -> None:
        self.size = width_height(size, "CropImage")
        self.offset = offset

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        size = sample["size"][::-1] if "size" in sample else self.size
        rooms = _require_room(sample, size, "CropImage")
        half = (round(room / 2) if self.offset == "round" else room // 2 for room in rooms)
        return geometry.crop(sample, *half, *size)


@register("transform")
class CenterCrop:
    """Cut `size` (a number or [height, width]) out of the image's centre."""

    def __init__(self, size: ImageSize) -> None:
        self.operation = CropImage(size if isinstance(size, int) else list(size)[::-1])

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        return self.operation(sample, rng)


@register("transform")
@dataclass
class CropImageAtRatio:
    """Cut the central square of size / (size + pad) of the short edge and resize it to `size`."""

    size: Edge
    pad: Margin
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        self.ratio = self.size / (self.size + self.pad)
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        height, width = geometry.size_of(sample)
        edge = max(1, int(self.ratio * min(height, width)))
        geometry.crop(sample, (width - edge) // 2, (height - edge) // 2, edge, edge)
        return geometry.resize(sample, self.size, self.size, self.resizer, rng)


@register("transform")
@dataclass
class RandCropImage:
    """Cut a random part and resize it to `size` (a number or [width, height]).

    The part's share of the image's area is uniform in `scale` (default 0.08 to 1), its aspect ratio
    width / height in `ratio` (default 3/4 to 4/3), with `use_log_aspect` in its logarithm. Where
    the ratio leaves no room for the area, the area is limited instead of drawing again, as in the
    reference toolkit. A multi-scale sample's own `size` (height, width) replaces `size`. Source:
    Szegedy et al., arXiv:1409.4842.
    """

    follows_size = True

    size: ImageSize
    progress_size: Ignored = None
    scale: list[PositiveFloat] | None = None
    ratio: list[PositiveFloat] | None = None
    interpolation: (
        Literal["nearest", "bilinear", "bicubic", "area", "box", "hamming", "lanczos", "random"]
        | None
    ) = None
    use_log_aspect: bool = False
    backend: Literal["cv2", "pil"] = "cv2"

    def __post_init__(self) -> None:
        self.size = width_height(self.size, "RandCropImage")
        self.scale = _interval(self.scale or (0.08, 1.0), "scale", 1.0)
        self.ratio = _interval(self.ratio or (3 / 4, 4 / 3), "ratio", math.inf)
        self.resizer = Resizer(self.interpolation, self.backend)

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
        low, high = self.ratio
        if self.use_log_aspect:
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            aspect = rng.uniform(low, high)
        bound = min(width / height / aspect, height / width * aspect)
        share = rng.uniform(min(self.scale[0], bound), min(self.scale[1], bound))
        area = width * height * share
        # A full edge must not lose a pixel.
        part_width = min(max(int(math.sqrt(area * aspect) + 1e-6), 1), width)
        part_height = min(max(int(math.sqrt(area / aspect) + 1e-6), 1), height)
        left = int(rng.integers(width - part_width + 1))
        top = int(rng.integers(height - part_height + 1))
        return left, top, part_width, part_height


@register("transform", aliases=("RandCropImageV2",))
class RandomCropImage:
    """Cut a window of `size` (a number or [width, height]) at a random place, without resizing.

    ImageError for a smaller image.
    """

    def __init__(self, size: ImageSize) -> None:
        self.size = width_height(size, "RandomCropImage")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        room_x, room_y = _require_room(sample, self.size, "RandomCropImage")
        left, top = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        return geometry.crop(sample, left, top, *self.size)


@register("transform", aliases=("RandomPaddingCrop",))
@dataclass
class RandomPadCrop:
    """Cut a window of `size` (a number or [width, height]) at a random place; a smaller image is
    filled up on its right and below before.

    `fill` is the colour there and `mask_fill` the label, 255 for pixels that count nowhere. The
    image is uint8, so that 127.5 becomes 128. With `category_max_ratio` below 1 the place is drawn
    again, up to 10 times, until the mask in the window has more than one class and none with that
    share of its pixels or more; pixels of the label 255 do not count. A multi-scale sample's own
    `size` (height, width) replaces `size`. (PaddleSeg's RandomPaddingCrop.)
    """

    follows_size = True

    size: ImageSize = 512
    fill: float | list[float] = 127.5
    mask_fill: Level = 255
    category_max_ratio: Probability = 1.0

    def __post_init__(self) -> None:
        self.size = width_height(self.size, "RandomPadCrop")
        self.fill = colour(self.fill, "RandomPadCrop: fill")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = sample["size"][::-1] if "size" in sample else self.size
        old_height, old_width = geometry.size_of(sample)
        borders = (0, 0, max(width - old_width, 0), max(height - old_height, 0))
        if any(borders):
            geometry.pad(sample, borders, self.fill, mask_fill=self.mask_fill)
        place = self._place(sample, width, height, rng)
        for _ in range(_TRIES - 1):
            if self.category_max_ratio >= 1 or self._is_mixed(sample, *place, width, height):
                break
            place = self._place(sample, width, height, rng)
        return geometry.crop(sample, *place, width, height)

    def _place(
        self, sample: Sample, width: int, height: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        rows, columns = geometry.size_of(sample)
        left = int(rng.integers(columns - width + 1))
        return left, int(rng.integers(rows - height + 1))

    def _is_mixed(self, sample: Sample, left: int, top: int, width: int, height: int) -> bool:
        if "mask" not in sample:
            return True
        window = sample["mask"][top : top + height, left : left + width]
        counts = np.bincount(window.ravel(), minlength=256)
        counts[geometry.MASK_FILL] = 0
        present = counts[counts > 0]
        return len(present) > 1 and present.max() / present.sum() < self.category_max_ratio


def _interval(pair: Any, name: str, limit: float) -> tuple[float, float]:
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= limit:
        raise UserError(
            f"RandCropImage: {name} is {list(pair)}; expected [low, high] with 0 < low <= high"
            + (f" <= {limit:g}" if math.isfinite(limit) else "")
        )
    return float(pair[0]), float(pair[1])


_MODES = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}


@register("transform")
@dataclass
class Pad:
    """Add `padding` pixels on every side, or [left, top, right, bottom].

    `fill` is the colour of mode "constant", one number or three; "edge" repeats the border,
    "reflect" mirrors at the last pixel, "symmetric" at its outer side. `backend` has no effect.
    """

    padding: Margin | list[Margin]
    fill: float | list[float] = 0.0
    padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant"
    backend: Ignored = "pil"

    def __post_init__(self) -> None:
        self.borders = [self.padding] * 4 if isinstance(self.padding, int) else self.padding
        if len(self.borders) != 4:
            raise UserError(
                f"Pad: padding has {len(self.borders)} numbers; expected one or "
                "[left, top, right, bottom]"
            )
        self.fill = colour(self.fill, "Pad: fill")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        return geometry.pad(sample, self.borders, self.fill, _MODES[self.padding_mode])


@register("transform", aliases=("PadImage",))
@dataclass
class Padv2:
    """Fill up to `size` (a number or [width, height]), or to multiples of `size_divisor`.

    `pad_mode` says where the image lies in the result: 0 top left, 1 centre, 2 bottom right, -1 at
    `offsets` = [x, y]. The image stays uint8, so that a fractional fill colour is rounded.
    ImageError where the image is larger than `size`.
    """

    size: ImageSize | None = None
    size_divisor: Edge = 32
    pad_mode: Literal[-1, 0, 1, 2] = 0
    offsets: list[Margin] | None = None
    fill_value: float | list[float] = (127.5, 127.5, 127.5)

    def __post_init__(self) -> None:
        mode, offsets = self.pad_mode, self.offsets
        if (mode == -1) != (offsets is not None) or (offsets and len(offsets) != 2):
            raise UserError(
                f"Padv2: offsets is {offsets} and pad_mode {mode}; offsets are [x, y] and "
                "belong to pad_mode -1"
            )
        if self.size is not None:
            self.size = width_height(self.size, "Padv2")
        self.fill = colour(self.fill_value, "Padv2: fill_value")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        height, width = geometry.size_of(sample)
        step = self.size_divisor
        new_width, new_height = self.size or (-(-width // step) * step, -(-height // step) * step)
        room_x, room_y = new_width - width, new_height - height
        places = {0: (0, 0), 1: (room_x // 2, room_y // 2), 2: (room_x, room_y), -1: self.offsets}
        left, top = places[self.pad_mode]
        right, bottom = room_x - left, room_y - top
        if min(left, top, right, bottom) < 0:
            raise ImageError(
                f"Padv2: the image of {width}x{height} pixels at {left}, {top} does not fit into "
                f"{new_width}x{new_height}; put a ResizeImage before it or enlarge 'size'"
            )
        return geometry.pad(sample, (left, top, right, bottom), self.fill)
