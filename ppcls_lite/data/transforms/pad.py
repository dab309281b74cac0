"""Padding: `Pad` adds a border, `Padv2` fills up to a size. Read next: normalize.py."""

from __future__ import annotations

from typing import Literal

import cv2

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Edge, Ignored, ImageSize, Margin
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.orientation import colour
from ppcls_lite.data.transforms.resize import width_height
from ppcls_lite.errors import UserError

_MODES = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}


@register("transform")
class Pad:
    """Add `padding` pixels on every side, or [left, top, right, bottom].

    `fill` is the colour of mode "constant", one number or three; "edge" repeats the border,
    "reflect" mirrors at the last pixel, "symmetric" at its outer side. `backend` has no effect.
    """

    def __init__(
        self,
        padding: Margin | list[Margin],
        fill: float | list[float] = 0.0,
        padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant",
        backend: Ignored = "pil",
    ) -> None:
        del backend
        borders = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(borders) != 4:
            raise UserError(
                f"Pad: padding has {len(borders)} numbers; expected one or "
                "[left, top, right, bottom]"
            )
        self.borders = borders
        self.fill = colour(fill, "Pad: fill")
        self.mode = _MODES[padding_mode]

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        return geometry.pad(sample, self.borders, self.fill, self.mode)


@register("transform")
class Padv2:
    """Fill up to `size` (a number or [width, height]), or to multiples of `size_divisor`.

    `pad_mode` says where the image lies in the result: 0 top left, 1 centre, 2 bottom right, -1 at
    `offsets` = [x, y]. The image stays uint8, so that a fractional fill colour is rounded.

    Raises:
        UserError: the image is larger than `size`.
    """

    def __init__(
        self,
        size: ImageSize | None = None,
        size_divisor: Edge = 32,
        pad_mode: Literal[-1, 0, 1, 2] = 0,
        offsets: list[Margin] | None = None,
        fill_value: float | list[float] = (127.5, 127.5, 127.5),
    ) -> None:
        if (pad_mode == -1) != (offsets is not None) or (offsets and len(offsets) != 2):
            raise UserError(
                f"Padv2: offsets is {offsets} and pad_mode {pad_mode}; offsets are [x, y] and "
                "belong to pad_mode -1"
            )
        self.size = None if size is None else width_height(size, "Padv2")
        self.size_divisor = size_divisor
        self.pad_mode = pad_mode
        self.offsets = offsets
        self.fill = colour(fill_value, "Padv2: fill_value")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        height, width = geometry.size_of(sample)
        step = self.size_divisor
        new_width, new_height = self.size or (-(-width // step) * step, -(-height // step) * step)
        room_x, room_y = new_width - width, new_height - height
        match self.pad_mode:
            case -1:
                left, top = self.offsets
            case 0:
                left, top = 0, 0
            case 1:
                left, top = room_x // 2, room_y // 2
            case _:
                left, top = room_x, room_y
        right, bottom = room_x - left, room_y - top
        if min(left, top, right, bottom) < 0:
            raise UserError(
                f"Padv2: the image of {width}x{height} pixels at {left}, {top} does not fit into "
                f"{new_width}x{new_height}; put a ResizeImage before it or enlarge 'size'"
            )
        return geometry.pad(sample, (left, top, right, bottom), self.fill)
