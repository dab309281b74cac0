"""Mask files: which class each pixel belongs to, as the file says it.

Gray and palette files hold indices: a palette's colours mean nothing, the numbers behind them do. A
file of colours needs a table of colours (`read_palette`). Read next: datasets_segmentation.py.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ppcls_lite.data.image_list import read_lines
from ppcls_lite.data.transforms.exif import TAG
from ppcls_lite.data.transforms.image_file import MAX_PIXELS, read_file
from ppcls_lite.data.transforms.image_header import ADVICE, JPEG, read_header
from ppcls_lite.errors import ImageError, UserError, shown

_EXPECTED = "expected a PNG of 8-bit gray or palette indices"


class MaskFile(NamedTuple):
    """What a file holds.

    numbers: (H, W) uint8; None in a file of colours.
    colours: (H, W, 3) uint8; None in a file of numbers.
    shown_as: (n, 3) uint8, the colours by which a palette file shows its numbers.
    turned: that the file's own EXIF orientation has been applied.
    lossy: that its format blurs edges, as JPEG does.
    """

    numbers: np.ndarray | None
    colours: np.ndarray | None = None
    shown_as: np.ndarray | None = None
    turned: bool = False
    lossy: bool = False

    def in_colours(self) -> np.ndarray:
        """The colours (H, W, 3) uint8 in which a viewer shows the file."""
        if self.colours is not None:
            return self.colours
        gray = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
        table = gray if self.shown_as is None else self.shown_as
        return table[self.numbers.clip(max=len(table) - 1)]


def read_mask(path: str) -> MaskFile:
    """A mask file. ImageError, as of `decode_mask`, where it cannot be read."""
    return decode_mask(read_file(path), path)


def decode_mask(data: bytes, name: str) -> MaskFile:
    """The mask in a file's bytes.

    A colour file in which all three channels are equal is gray. ImageError, which begins with
    `name`, for what cannot be read or does not fit into 8 bits.
    """
    try:
        header = read_header(data)
        if header.width * header.height > MAX_PIXELS:
            raise ImageError(
                f"{header.width} x {header.height} pixels; expected at most {MAX_PIXELS / 1e6:g} "
                "million"
            )
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            turned = image.getexif().get(TAG, 1) in range(2, 9)
            ImageOps.exif_transpose(image, in_place=True)
            numbers = _numbers(image, header.depth)
            colours = numbers if numbers.ndim == 3 else None
            palette = image.getpalette("RGB") if image.mode == "P" else None
            return MaskFile(
                numbers if colours is None else None,
                colours,
                None if palette is None else np.array(palette, np.uint8).reshape(-1, 3),
                turned,
                data.startswith(JPEG),
            )
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except Exception as error:  # for damaged bytes Pillow's readers raise nearly anything
        raise ImageError(f"{name}: cannot be decoded: {error}; {ADVICE}") from error


def _numbers(image: Image.Image, depth: int) -> np.ndarray:
    if image.mode in ("L", "P", "1"):
        numbers = np.asarray(image).astype(np.uint8)
        if image.mode == "L" and depth in (2, 4):  # Pillow stretches them over 0 to 255
            numbers //= 255 // (2**depth - 1)
        return numbers
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 255:
            raise ImageError(f"{_EXPECTED}, found values up to {wide.max():,}")
        return wide.astype(np.uint8)
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    if image.mode not in ("RGB", "RGBA"):
        raise ImageError(f"{_EXPECTED}, found the kind {image.mode}")
    colours = np.asarray(image)[..., :3]  # (H, W, 3)
    gray = colours[..., 0]
    same = (colours[..., 1] == gray).all() and (colours[..., 2] == gray).all()
    return np.ascontiguousarray(gray if same else colours)


class Palette:
    """Colours and the numbers that stand for them: the first colour is 0, the next 1, and so on.

    colours: (n, 3) uint8 RGB, n at most 256. names: of the colours, if they have any.
    """

    def __init__(self, colours: np.ndarray, names: list[str] | None = None) -> None:
        self.colours = np.asarray(colours, np.uint8).reshape(-1, 3)
        self.names = names
        codes = colour_codes(self.colours)
        self._order = np.argsort(codes, kind="stable")
        self._codes = codes[self._order]

    def indices(self, mask: np.ndarray, name: str) -> np.ndarray:
        """The numbers (H, W) uint8 of a mask's colours (H, W, 3).

        ImageError for a colour that the palette does not have.
        """
        codes = colour_codes(mask)  # (H, W)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        wrong = self._codes[places] != codes
        if wrong.any():
            found, counts = np.unique(codes[wrong], return_counts=True)
            worst = int(found[counts.argmax()])
            raise ImageError(
                f"{name}: {int(wrong.sum()):,} pixels of {len(found):,} colours are not in the "
                f"palette, most of them {colour_text(worst)}; add the colours, or save the mask "
                "without compression and without smooth edges (PNG)"
            )
        return self._order[places].astype(np.uint8)


def colour_codes(colours: np.ndarray) -> np.ndarray:
    """One number for each colour (..., 3) uint8."""
    wide = colours.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def colour_text(code: int) -> str:
    """A colour's number as `[r, g, b]`."""
    return str([code >> 16, code >> 8 & 255, code & 255])


def read_palette(path: str) -> Palette:
    """The colours of a text file, one a line: `r g b` or `r g b name`, in the order of the classes.

    Raises UserError that names a line that is none.
    """
    if not Path(path).is_file():
        raise UserError(f"palette: there is no file {shown(path)}; one line a class: `r g b name`")
    colours, names = [], []
    for number, line in read_lines(path):
        parts = line.split(None, 3)
        levels = [int(part) for part in parts[:3] if part.isdecimal() and int(part) < 256]
        if len(levels) != 3:
            raise UserError(
                f"{path}:{number}: expected `r g b name` with numbers from 0 to 255, found "
                f"{shown(line)}"
            )
        colours.append(levels)
        names.append(parts[3].strip() if len(parts) > 3 else str(len(names)))
    different = len({tuple(colour) for colour in colours})
    if different < len(colours) or not 0 < len(colours) <= 256:
        raise UserError(
            f"{path}: {len(colours)} colours, {different} of them different; expected 1 to 256, "
            "each once"
        )
    return Palette(np.array(colours), names)
