"""Linear interpolation along an axis, as numbers that other operations can work with.

Pixels' centres lie at half pixels, unless the corners are aligned; beyond the outermost centres
their value goes on. Read next: ../models/upsample.py, ../inference/onnx/enlarging.py.
"""

from __future__ import annotations

import numpy as np


def linear_kernel(factor: int) -> np.ndarray:
    """What a pixel adds to its neighbourhood along an axis that grows `factor` times, float32.

    It is the triangle of linear interpolation at the pixels of the result: 2 factor of them, or one
    less where the factor is odd and one lies on the pixel's centre.
    """
    size = 2 * factor - factor % 2
    places = np.arange(size) - (size - 1) / 2  # from the pixel's centre, in pixels of the result
    return (1 - np.abs(places) / factor).astype(np.float32)


def linear_neighbours(
    small: int, large: int, align_corners: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `large` pixels: the two of `small` that it mixes, and the second one's share."""
    places = np.arange(large, dtype=np.float64)
    if align_corners:
        places = places * np.float32((small - 1) / max(large - 1, 1))
    else:
        places = (places + 0.5) * np.float32(small / large) - 0.5
    places = places.astype(np.float32)  # as Paddle computes them, rounding included
    places = places.clip(0, small - 1)
    low = np.floor(places)
    high = np.minimum(low + 1, small - 1)
    return low.astype(np.int64), high.astype(np.int64), places - low
