"""Text on a picture that is readable on any colour."""

from __future__ import annotations

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_PLAIN, 1  # and its scale
_AROUND = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]


def write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    """White letters with a black edge, from `place` (x, y) at their feet, in (H, W, 3) uint8.

    The edge is the same letters, moved: those of another thickness may have other widths.
    """
    x, y = place
    for right, down in _AROUND:
        cv2.putText(picture, text, (x + right, y + down), *FONT, (0, 0, 0), 1)
    cv2.putText(picture, text, place, *FONT, (255, 255, 255), 1)
