"""The EXIF orientation of an image file, and masks of the pixels as the file stores them.

An image is turned upright when it is decoded; such a mask has to turn with it.
Read before: image_file.py, geometry.py.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ppcls_lite.data.transforms.image_header import PNG

TAG = 0x0112
_UPRIGHT = 1
# orientation -> (whether rows and columns are exchanged first, then how cv2.flip mirrors)
_MOVES = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}


class Orientation(NamedTuple):
    """How a file's pixels are stored: `value` 1 to 8 as in EXIF, the size (width, height) of the
    stored image."""

    value: int
    width: int
    height: int

    @property
    def exchanges(self) -> bool:
        """Whether the upright image's width is the stored one's height."""
        return self.value in (5, 6, 7, 8)

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) of the image as it is decoded."""
        return (self.height, self.width) if self.exchanges else (self.width, self.height)

    def turn_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask (H, W) of the stored pixels as one of the upright image."""
        exchange, code = _MOVES.get(self.value, (False, None))
        mask = cv2.transpose(mask) if exchange else mask
        return mask if code is None else cv2.flip(mask, code)


def read_orientation(path: str) -> Orientation | None:
    """That of an image file, from its header; None where the file cannot be read.

    Whoever decodes the image says what is wrong with it.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (called for every sample)
            mark = file.read(len(PNG))
            file.seek(0)
            # Pillow would decode all of a PNG to look behind its pixels.
            plain = mark == PNG and b"eXIf" not in file.read()
            file.seek(0)
            with Image.open(file) as image:
                # Of a turned TIFF, Pillow says the upright size.
                tags = getattr(image, "tag_v2", None)
                size = (tags[256], tags[257]) if tags else image.size
                value = _UPRIGHT if plain else int(image.getexif().get(TAG, _UPRIGHT))
    except Exception:  # for damaged bytes Pillow's readers raise nearly anything
        return None
    return Orientation(value if value in _MOVES else _UPRIGHT, *size)
