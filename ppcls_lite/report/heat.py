"""A class's map over the image that the network saw. Read before: sheets.py."""

from __future__ import annotations

import numpy as np

from ppcls_lite.inference.maps import glow

_STRENGTH = 0.55
_GAP = 4  # pixels between two pictures


def seen(array: np.ndarray) -> np.ndarray:
    """A network's input (C, H, W), stretched to its own range, as (H, W, 3) uint8."""
    low, high = float(array.min()), float(array.max())
    pixels = ((array[:3] - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) uint8 with a map (h, w) over it: what speaks for the class glows.

    What speaks against it, below 0, is left as it is; a map without anything above 0 shows nothing.
    """
    layer = glow(heat, image.shape[:2])
    strength = _STRENGTH / 255 * layer[..., 3:]
    return (image * (1 - strength) + layer[..., :3] * strength).round().astype(np.uint8)


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures of one height, (H, W, 3) uint8 each, side by side with a white gap."""
    gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
