"""Moving a sample: the image and, where present, its boxes, its mask and `meta`, always together.

A sample's `image` is (H, W, C), `mask` (H, W), `boxes` (n, 4) as x1, y1, x2, y2 in pixels, where a
pixel at column i covers i to i + 1. Boxes are clipped to the image and never removed, so that lists
parallel to them stay aligned: one that has left the image has no area. `meta` is the way back, for
whoever put a `Meta` into the sample. Read next: crop.py, resize.py, orientation.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from ppcls_lite.errors import ImageError
from ppcls_lite.ops.boxes import around, clipped
from ppcls_lite.ops.masks import MASK_FILL as MASK_FILL

# What a step may make of an image, in pixels, or else twice what it was: otherwise a thin line of
# some kilobytes, its short edge enlarged, asks for gigabytes.
MAX_RESULT = 2**25
Sample = dict[str, Any]
Rng = np.random.Generator | None  # `None` only where nothing is drawn


@dataclass
class Meta:
    """What a chain of transforms did to an image.

    `height` and `width` are those of the image as it was decoded; `source` (2, 3) float64 is the
    affine map that sends a point (x, y) of the result to its place there. `seen` (height, width)
    is the size of the result where a prediction has made one, (0, 0) before.
    """

    height: int = 0
    width: int = 0
    source: np.ndarray = field(default_factory=lambda: np.eye(2, 3))
    seen: tuple[int, int] = (0, 0)

    def boxes_back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) in the result's pixels as boxes in those of the decoded image."""
        return clipped(around(boxes, self.source), self.width, self.height)


def size_of(sample: Sample) -> tuple[int, int]:
    """(height, width) of the sample's image."""
    return sample["image"].shape[:2]


def _require_bounded(sample: Sample, width: int, height: int) -> None:
    old_height, old_width = size_of(sample)
    limit = max(MAX_RESULT, 2 * old_width * old_height)
    if width * height > limit:
        raise ImageError(
            f"the image of {old_width}x{old_height} pixels would become one of {width}x{height}; "
            f"expected at most {limit / 1e6:.0f} million pixels: crop it, or leave it out"
        )


def _pictures(sample: Sample) -> set[str]:
    return {"image", "mask"} & sample.keys()


def crop(sample: Sample, left: int, top: int, width: int, height: int) -> Sample:
    """Cut out a window that lies inside the image; a view, nothing is copied."""
    for name in _pictures(sample):
        sample[name] = sample[name][top : top + height, left : left + width]
    return _follow(sample, [[1, 0, left], [0, 1, top]])


def resize(
    sample: Sample, width: int, height: int, resize_image: Callable[..., np.ndarray], rng: Rng
) -> Sample:
    """Resize to (height, width) pixels; the mask takes the nearest label.

    Like `pad` and `warp`, raises ImageError where the result would be far larger than the image.
    """
    _require_bounded(sample, width, height)
    old_height, old_width = size_of(sample)
    sample["image"] = resize_image(sample["image"], (width, height), rng)
    if "mask" in sample:
        mask = cv2.resize(sample["mask"], (width, height), interpolation=cv2.INTER_NEAREST)
        sample["mask"] = mask
    return _follow(sample, [[old_width / width, 0, 0], [0, old_height / height, 0]])


def flip(sample: Sample, flip_code: int) -> Sample:
    """Mirror: 1 left-right, 0 top-bottom, -1 both."""
    height, width = size_of(sample)
    for name in _pictures(sample):
        sample[name] = cv2.flip(sample[name], flip_code)
    across = [-1, 0, width] if flip_code != 0 else [1, 0, 0]
    down = [0, -1, height] if flip_code != 1 else [0, 1, 0]
    return _follow(sample, [across, down])


def rotate90(sample: Sample, times: int) -> Sample:
    """Turn counter-clockwise by `times` quarter turns."""
    for _ in range(times % 4):
        _, width = size_of(sample)
        for name in _pictures(sample):
            sample[name] = cv2.rotate(sample[name], cv2.ROTATE_90_COUNTERCLOCKWISE)
        sample = _follow(sample, [[0, -1, width], [1, 0, 0]])
    return sample


def pad(
    sample: Sample,
    borders: tuple[int, int, int, int],
    fill: Sequence[float],
    mode: int = cv2.BORDER_CONSTANT,
    mask_fill: int = MASK_FILL,
) -> Sample:
    """Add `borders` = (left, top, right, bottom) pixels of colour `fill`, or of another `mode`."""
    left, top, right, bottom = borders
    height, width = size_of(sample)
    _require_bounded(sample, left + width + right, top + height + bottom)
    for name, value in (("image", tuple(fill)), ("mask", mask_fill)):
        if name in sample:
            sample[name] = cv2.copyMakeBorder(
                sample[name], top, bottom, left, right, mode, value=value
            )
    return _follow(sample, [[1, 0, -left], [0, 1, -top]])


def warp(
    sample: Sample,
    source: np.ndarray,
    size: tuple[int, int],
    interpolation: int,
    fill: Sequence[float],
) -> Sample:
    """Apply an affine map given backwards: `source` (2, 3) sends a point of the result to the
    point of the input whose colour it takes. `size` is the result's (width, height).
    """
    _require_bounded(sample, *size)
    # Coordinates here count from a pixel's edge, OpenCV's from its centre.
    centred = source.astype(np.float64)
    centred[:, 2] += centred[:, :2].sum(axis=1) * 0.5 - 0.5
    ways = (("image", interpolation, tuple(fill)), ("mask", cv2.INTER_NEAREST, MASK_FILL))
    for name, method, value in ways:
        if name in sample:
            flags = method | cv2.WARP_INVERSE_MAP
            sample[name] = cv2.warpAffine(
                *(sample[name], centred, size),
                flags=flags,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=value,
            )
    return _follow(sample, source)


def _follow(sample: Sample, source: Any) -> Sample:
    """Move the boxes and note the move, after the image; `source` (2, 3) as in `warp`."""
    if "boxes" in sample:
        forward = cv2.invertAffineTransform(np.asarray(source, np.float64))
        height, width = size_of(sample)
        sample["boxes"] = clipped(around(sample["boxes"], forward), width, height)
    if "meta" in sample:
        meta, step = sample["meta"], np.vstack([source, [0, 0, 1]])
        sample["meta"] = Meta(meta.height, meta.width, meta.source @ step)
    return sample


def rotation(angle: float, centre: tuple[float, float]) -> np.ndarray:
    """The backward map (2, 3) of a counter-clockwise rotation by `angle` degrees about `centre`."""
    return cv2.invertAffineTransform(cv2.getRotationMatrix2D(centre, angle, 1.0))
