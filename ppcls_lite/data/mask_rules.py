"""From the numbers in a mask file to the classes that a network learns, 255 for what is ignored.

Read before: mask_file.py. Read next: datasets_segmentation.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ppcls_lite.data.mask_file import MaskFile, Palette
from ppcls_lite.data.transforms.exif import read_orientation
from ppcls_lite.data.transforms.geometry import MASK_FILL
from ppcls_lite.errors import UserError, shown

MAX_CLASSES = 254  # 255 is ignored, and 254 stands for a number that is no class
WRONG = 254
OTHER = "other"  # the key of label_map for all numbers that it does not name
Placed = Literal["auto", "stored", "upright"]


class MaskRules:
    """How a data set reads its masks.

    Args:
        class_num: the classes are 0 to class_num - 1; None: any number up to 253.
        ignore_index: the number, or the numbers, in the files that count nowhere.
        label_map: {number in the file: class, or 255}; what it does not name stays as it is, or
            becomes what the key `other` says. It goes before `ignore_index`.
        reduce_zero_label: 0 is ignored, and 1, 2, ... are the classes 0, 1, ...
        palette: the colours of masks that are pictures.
        placed: whether masks lie on the image as it is stored or as EXIF turns it; "auto": as
            their size says, and as stored where both have that size.

    Attributes:
        table: (256,) uint8, from the number in a file to the class, `MASK_FILL` or `WRONG`.
        ignored: the numbers in the files that count nowhere, sorted.
    """

    def __init__(
        self,
        class_num: int | None = None,
        ignore_index: int | Sequence[int] = 255,
        label_map: Mapping[Any, int] | None = None,
        reduce_zero_label: bool = False,
        palette: Palette | None = None,
        placed: Placed = "auto",
    ) -> None:
        if class_num is not None and class_num > MAX_CLASSES:
            raise UserError(
                f"class_num is {class_num}; masks have 8 bits, so that there are at most "
                f"{MAX_CLASSES} classes"
            )
        self.class_num, self.palette, self.placed = class_num, palette, placed
        self.map = _checked_map(label_map or {}, class_num)
        ignored = [ignore_index] if isinstance(ignore_index, int) else list(ignore_index)
        if self.map and reduce_zero_label:
            raise UserError("give label_map or reduce_zero_label, not both")
        numbers = np.arange(256)
        if OTHER in self.map:
            numbers[:] = self.map[OTHER]
        if reduce_zero_label:
            numbers -= 1
            ignored = [0, *ignored]
        numbers[ignored] = MASK_FILL
        for number, kind in self.map.items():
            if number != OTHER:
                numbers[number] = kind
        limit = class_num if class_num is not None else WRONG
        numbers[(numbers != MASK_FILL) & (numbers >= limit)] = WRONG
        self.table = numbers.astype(np.uint8)
        self.ignored = np.flatnonzero(self.table == MASK_FILL).tolist()

    def numbers(self, found: MaskFile, name: str) -> np.ndarray:
        """The numbers (H, W) uint8 in a mask file; colours by the palette.

        ImageError for a colour that is not in it; UserError for colours without a palette.
        """
        if self.palette is not None:
            return self.palette.indices(found.in_colours(), name)
        if found.numbers is None:
            raise UserError(
                f"{name}: the mask has colours, not class numbers; name the classes' colours by "
                "`palette` (a text file, one line `r g b name` a class), or save it as 8-bit gray "
                "or palette PNG"
            )
        return found.numbers

    def classes(self, found: MaskFile, name: str) -> np.ndarray:
        """The classes (H, W) uint8, `MASK_FILL` where nothing counts.

        Raises UserError that names a number in the file that is no class, with its pixels.
        """
        numbers = self.numbers(found, name)
        mask = self.table[numbers]
        if (mask == WRONG).any():
            counts = np.bincount(numbers.ravel(), minlength=256)
            raise UserError(f"{name}: {self.describe_wrong(counts)}")
        return mask

    def describe_wrong(self, counts: np.ndarray) -> str:
        """What is wrong with a file, or many, by the pixels (256,) of each number."""
        wrong = [n for n in np.flatnonzero(counts).tolist() if self.table[n] == WRONG]
        named = ", ".join(f"{n} ({int(counts[n]):,} pixels)" for n in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        top = MAX_CLASSES if self.class_num is None else self.class_num
        return (
            f"has the value{'s' if len(wrong) > 1 else ''} {named}{more}; the classes are 0 to "
            f"{top - 1}, ignored {self.describe_ignored()}: correct Arch.class_num, or say what "
            "the values mean by label_map or ignore_index"
        )

    def describe_ignored(self) -> str:
        """The numbers that are ignored, in short."""
        few = ", ".join(map(str, self.ignored[:4]))
        return few + (f" and {len(self.ignored) - 4} more" if len(self.ignored) > 4 else "")

    def upright(self, found: MaskFile, mask: np.ndarray, image: str) -> np.ndarray:
        """The mask (H, W) of the file `found`, turned as the image at that path will be."""
        if found.turned or self.placed == "upright":
            return mask
        orientation = read_orientation(image)
        if orientation is None or orientation.value == 1:
            return mask
        stored = mask.shape == (orientation.height, orientation.width)
        return orientation.turn_mask(mask) if stored or self.placed == "stored" else mask


def _checked_map(label_map: Mapping[Any, int], class_num: int | None) -> dict[Any, int]:
    top = MAX_CLASSES if class_num is None else class_num
    for number, kind in label_map.items():
        known = number == OTHER or (type(number) is int and 0 <= number <= 255)
        if not known or not (0 <= kind < top or kind == MASK_FILL):
            raise UserError(
                f"label_map: {shown(number)}: {kind}; expected a number from 0 to 255 in the file, "
                f"or `{OTHER}`, and a class from 0 to {top - 1}, or {MASK_FILL} to ignore it"
            )
    return dict(label_map)
