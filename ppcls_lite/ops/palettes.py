"""The colours of classes.

`cityscapes`: as its scripts have them. `voc`: PASCAL VOC's, where class 0 is black. `plain`: for
any classes, made of eight colours that people with a colour vision deficiency tell apart, by Okabe
and Ito (https://jfly.uni-koeln.de/color/); from the ninth class on lighter and darker ones, always
the one that is farthest from those before it, and what is almost black last.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ppcls_lite.ops.masks import MASK_FILL

COLOURS = 256
CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
_PLAIN = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (240, 228, 66), (90, 90, 90)),
)
_DARK = 75  # of 255 of brightness: hides what is below it
_MIXED = ((255, 0.45), (0, 0.4), (255, 0.7), (0, 0.65))  # with white or black, and how much of it


def colours_of(
    palette: str | Sequence[Sequence[int]], names: Sequence[str] | None = None
) -> np.ndarray:
    """256 colours (256, 3) uint8. `auto` is Cityscapes's where the classes have its names.

    Own colours come first, and `plain` ones after them.
    """
    if palette == "auto":
        palette = "cityscapes" if names is not None and [*names] == [*CITYSCAPES] else "plain"
    if palette == "voc":
        return voc_colours(COLOURS)
    if isinstance(palette, str):
        own = list(CITYSCAPES.values()) if palette == "cityscapes" else []
    else:
        own = [tuple(colour) for colour in palette]
    colours = _plain()
    colours[: len(own)] = np.array(own, np.uint8).reshape(-1, 3)
    return colours


def voc_colours(count: int) -> np.ndarray:
    """The first `count` colours (count, 3) uint8 of PASCAL VOC's label files; 0 is black.

    A class's bits are dealt out to red, green and blue in turn, from the highest bit down.
    """
    numbers = np.arange(count)
    colours = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def over(image: np.ndarray, classes: np.ndarray, colours: np.ndarray, opacity: float) -> np.ndarray:
    """An image (H, W, 3) uint8 with classes (H, W) in their colours over it, but for MASK_FILL."""
    strength = np.where(classes == MASK_FILL, 0, np.float32(opacity))[..., None]
    return (
        (image * (1 - strength) + colours[classes.clip(max=len(colours) - 1)] * strength)
        .round()
        .astype(np.uint8)
    )


def _plain() -> np.ndarray:
    base = np.array(_PLAIN, np.float64)
    rows = [base, *(base * (1 - share) + end * share for end, share in _MIXED)]
    made = np.concatenate(rows).round().astype(np.uint8)  # (40, 3)
    seen = cv2.cvtColor(made[None], cv2.COLOR_RGB2LAB)[0].astype(np.float64)  # as eyes compare
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)  # (40, 40)
    apart[:, seen[:, 0] < _DARK] /= 1000
    order = list(range(len(base)))
    while len(order) < len(made):
        order.append(int(apart[order].min(axis=0).argmax()))
    return np.tile(made[order], (-(-COLOURS // len(made)), 1))[:COLOURS]
