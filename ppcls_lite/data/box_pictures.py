"""Boxes on an image, with what stands for them: for the first batch, predictions and pages.

Read next: datasets_detection.py, ppcls_lite/inference/postprocess/detect.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from ppcls_lite.system.fonts import put_text, text_size

COLOURS = (
    *((255, 80, 80), (80, 255, 80), (110, 160, 255), (255, 220, 60), (255, 100, 255)),
    *((60, 230, 230), (255, 160, 40), (180, 140, 255), (190, 255, 60), (255, 160, 190)),
)
_FONT = cv2.FONT_HERSHEY_PLAIN


def draw_boxes(
    image: np.ndarray, boxes: Sequence[Sequence[float]], kinds: Iterable[int], texts: Iterable[str]
) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 with boxes x1, y1, x2, y2; the last ones lie on top.

    kinds: class numbers, which choose the colours.
    """
    picture = np.ascontiguousarray(image).copy()
    thick = max(1, round(min(picture.shape[:2]) / 300))
    for box, kind, text in zip(boxes, kinds, texts):
        x1, y1, x2, y2 = (round(float(edge)) for edge in box)
        colour = COLOURS[kind % len(COLOURS)]
        cv2.rectangle(picture, (x1, y1), (max(x2 - 1, x1), max(y2 - 1, y1)), colour, thick)
        _label(picture, text, x1, y1, colour, thick)
    return picture


def _label(
    picture: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int], thick: int
) -> None:
    """Black on the box's colour, above its corner or, at the upper edge, below it."""
    size = 0.7 * thick
    (width, height), below = text_size(text, _FONT, size, thick)
    left = max(0, min(x, picture.shape[1] - width))
    top = y - height - below if y >= height + below else y
    corners = (left, top), (left + width, top + height + below)
    cv2.rectangle(picture, *corners, colour, cv2.FILLED)
    put_text(picture, text, (left, top + height), _FONT, size, (0, 0, 0), thick)
