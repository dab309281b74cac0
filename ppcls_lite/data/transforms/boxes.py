"""Transforms that look at the boxes of a sample: crops that keep objects, canvases, letterboxes.

Names and defaults as in PaddleDetection. What a box does when its image moves is in geometry.py.
Read before: crop.py, resize.py. Read next: ../datasets_detection.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Enlargement, ImageSize, PositiveFloat, Probability, Repeats
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.orientation import colour
from ppcls_lite.data.transforms.resize import Resizer, width_height
from ppcls_lite.errors import UserError
from ppcls_lite.ops.boxes import area, centres, intersection

PARALLEL = ("boxes", "classes")  # what has one row for each object


def keep_boxes(sample: Sample, keep: np.ndarray) -> Sample:
    """Forget the objects of which `keep` (n,) bool is false."""
    for name in PARALLEL:
        sample[name] = sample[name][keep]
    return sample


@register("transform")
@dataclass
class RandomCropBoxes:
    """Cut out a random window with some object in it (PaddleDetection's RandomCrop).

    One of `thresholds` is drawn, or with `allow_no_crop` the image as it is. Up to `num_attempts`
    windows are tried, whose edges are a share of the image's from `scaling`, with a change of the
    aspect ratio within `aspect_ratio`. The first counts that overlaps some box by the threshold (by
    IoU, or with `ioumode` iof by the share of the box), with `cover_all_box` every box, and has the
    centre of one. Where none does, the next threshold is tried. The objects whose centres are in
    the window stay. An image without boxes stays as it is. Source: SSD, arXiv 1512.02325, 2.2.
    """

    aspect_ratio: list[PositiveFloat] = (0.5, 2.0)
    thresholds: list[Probability] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    scaling: list[PositiveFloat] = (0.3, 1.0)
    num_attempts: Repeats = 50
    allow_no_crop: bool = True
    cover_all_box: bool = False
    ioumode: Literal["iou", "iof"] = "iou"
    prob: Probability = 1.0

    def __post_init__(self) -> None:
        for name, limit in (("aspect_ratio", np.inf), ("scaling", 1.0)):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= limit:
                raise UserError(
                    f"RandomCropBoxes: {name} is {list(pair)}; expected [low, high] with 0 < low "
                    f"<= high{' <= 1' if limit == 1 else ''}"
                )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not len(sample["boxes"]) or rng.random() >= self.prob:
            return sample
        choices = [*self.thresholds, *([None] if self.allow_no_crop else [])]
        for place in rng.permutation(len(choices)):
            threshold = choices[place]
            if threshold is None:
                return sample
            window = self._window(sample, threshold, rng)
            if window is not None:
                return self._cut(sample, window)
        return sample

    def _window(
        self, sample: Sample, threshold: float, rng: np.random.Generator
    ) -> np.ndarray | None:
        """A window x1, y1, x2, y2 that fits; None if none of the attempts does."""
        boxes = sample["boxes"].astype(np.float64)[None]  # (1, n, 4)
        windows = self._attempts(*geometry.size_of(sample), rng)[:, None]  # (k, 1, 4)
        shared = intersection(windows, boxes)  # (k, n)
        whole = area(boxes) + (area(windows) - shared if self.ioumode == "iou" else 0)
        overlap = shared / np.maximum(whole, 1e-9)
        worst = overlap.min(axis=1) if self.cover_all_box else overlap.max(axis=1)
        fits = (worst >= threshold) & _inside(boxes, windows).any(axis=1)
        return windows[fits.argmax(), 0] if fits.any() else None

    def _attempts(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """(num_attempts, 4) windows in whole pixels."""
        count = self.num_attempts
        scale = rng.uniform(*self.scaling, count)
        low = np.maximum(self.aspect_ratio[0], scale**2)
        high = np.minimum(self.aspect_ratio[1], scale**-2)
        ratio = np.sqrt(rng.uniform(np.minimum(low, high), high))
        rows = np.clip((height * scale / ratio).astype(int), 1, height)
        columns = np.clip((width * scale * ratio).astype(int), 1, width)
        top = rng.integers(0, np.maximum(height - rows, 1))
        left = rng.integers(0, np.maximum(width - columns, 1))
        return np.stack([left, top, left + columns, top + rows], axis=1).astype(np.float64)

    def _cut(self, sample: Sample, window: np.ndarray) -> Sample:
        keep = _inside(sample["boxes"], window)
        left, top, right, bottom = window.astype(int).tolist()
        sample = geometry.crop(sample, left, top, right - left, bottom - top)
        return keep_boxes(sample, keep & (area(sample["boxes"]) > 0))


def _inside(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Whether the centres of boxes (..., 4) are in windows (..., 4), (...) bool."""
    points = centres(boxes)
    return ((windows[..., :2] <= points) & (points < windows[..., 2:])).all(axis=-1)


@register("transform")
@dataclass
class RandomExpand:
    """With probability `prob`, lay the image on a canvas of up to `ratio` times its edges.

    The place is random, the canvas has the colour `fill_value`: objects get smaller. Source: SSD,
    arXiv 1512.02325, 3.6.
    """

    ratio: Enlargement = 4.0
    prob: Probability = 0.5
    fill_value: float | list[float] = 127.5

    def __post_init__(self) -> None:
        self.fill_value = colour(self.fill_value, "RandomExpand: fill_value")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        height, width = geometry.size_of(sample)
        scale = rng.uniform(1, self.ratio)
        room_y, room_x = int(height * scale) - height, int(width * scale) - width
        top, left = int(rng.integers(room_y + 1)), int(rng.integers(room_x + 1))
        borders = (left, top, room_x - left, room_y - top)
        return geometry.pad(sample, borders, self.fill_value)


@register("transform")
@dataclass
class LetterboxImage:
    """Resize so that the whole image fits into `size` (a number or [width, height]), and fill up.

    The aspect ratio stays, the image is in the middle, the rest has the colour `fill`. A
    multi-scale sample's own `size` (height, width) replaces `size`.
    """

    follows_size = True

    size: ImageSize
    interpolation: (
        Literal["nearest", "bilinear", "bicubic", "area", "lanczos", "random", "all"] | None
    ) = None
    fill: float | list[float] = 114.0

    def __post_init__(self) -> None:
        self.size = width_height(self.size, "LetterboxImage")
        self.fill = colour(self.fill, "LetterboxImage: fill")
        self.resizer = Resizer(self.interpolation, "cv2")

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        width, height = sample["size"][::-1] if "size" in sample else self.size
        old_height, old_width = geometry.size_of(sample)
        scale = min(width / old_width, height / old_height)
        inner = (max(1, round(old_width * scale)), max(1, round(old_height * scale)))
        geometry.resize(sample, *inner, self.resizer, rng)
        room_x, room_y = width - inner[0], height - inner[1]
        left, top = room_x // 2, room_y // 2
        borders = (left, top, room_x - left, room_y - top)
        return geometry.pad(sample, borders, self.fill)
