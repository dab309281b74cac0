"""Changes of colour on an (H, W, 3) uint8 RGB image, each a function that returns a new image.

They follow Pillow's ImageOps and ImageEnhance, by which AutoAugment is defined, to within two grey
levels, but by OpenCV tables. Read next: photometric.py, augment_ops.py.
"""

from __future__ import annotations

import cv2
import numpy as np

_LEVELS = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's SMOOTH kernel


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale by `factor`: 0 gives black, 1 the image."""
    return _by_table(image, _LEVELS * factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance to the image's mean grey: 0 gives that grey, 1 the image."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _by_table(image, mean + factor * (_LEVELS - mean))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the saturation: 0 gives grayscale, 1 the image."""
    return cv2.addWeighted(image, factor, grayscale(image), 1 - factor, 0)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the detail: 0 gives a smoothed image, 1 the image. Border pixels stay."""
    smooth = cv2.filter2D(image, -1, _SMOOTH)
    smooth[[0, -1]] = image[[0, -1]]
    smooth[:, [0, -1]] = image[:, [0, -1]]
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of a full circle, -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # wraps around on purpose
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(image: np.ndarray) -> np.ndarray:
    """The luminance (ITU-R 601), repeated three times."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def invert(image: np.ndarray) -> np.ndarray:
    """255 minus the image."""
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the highest `bits` bits, at least one: with none the image would be black."""
    return cv2.LUT(image, (_LEVELS & -(1 << (8 - min(max(bits, 1), 8)))).astype(np.uint8))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert the values from `threshold` on."""
    return _by_table(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: np.ndarray, amount: int) -> np.ndarray:
    """Add `amount` to the values below 128."""
    return _by_table(image, np.where(_LEVELS < 128, _LEVELS + amount, _LEVELS))


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255."""
    tables = []
    for counts in _histograms(image):
        low, high = np.flatnonzero(counts)[[0, -1]]
        tables.append(_LEVELS if high == low else (_LEVELS - low) * (255.0 / (high - low)))
    return _by_table(image, np.stack(tables, axis=1))


def equalize(image: np.ndarray) -> np.ndarray:
    """Make each channel's histogram flat."""
    tables = []
    for counts in _histograms(image):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        tables.append((step // 2 + below) // step if step else _LEVELS)
    return _by_table(image, np.stack(tables, axis=1))


def _by_table(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace every value by its entry; `table` is (256,) or (256, 3), clipped to 0..255."""
    entries = table.clip(0, 255).astype(np.uint8)
    return cv2.LUT(image, entries if entries.ndim == 1 else entries[None])


def _histograms(image: np.ndarray) -> list[np.ndarray]:
    """The counts (256,) of each channel."""
    found = (cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(3))
    return [counts.ravel().astype(np.int64) for counts in found]
