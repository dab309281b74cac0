"""Mixing the images and boxes of a batch: mosaics. Read before: batch_transforms.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import PositiveFloat, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.ops.boxes import area

Batch = dict[str, Any]


@register("batch_transform")
@dataclass
class BatchMosaic:
    """Put parts of four images of the batch together, around a random point; boxes come along.

    Each image is a mosaic with the probability `prob`: itself and three others, resized by one
    factor from `scaling`, meet in a point of the middle half. What is beyond a part is cut off, and
    a box of which less than the share `visible` is left is forgotten. Free space is 0, the mean
    colour of a normalised image. Source: YOLOv4, arXiv 2004.10934, 3.3.
    """

    prob: Probability = 0.5
    scaling: list[PositiveFloat] = (0.5, 1.0)
    visible: Probability = 0.2

    def __post_init__(self) -> None:
        if len(self.scaling) != 2 or not 0 < self.scaling[0] <= self.scaling[1] <= 1:
            raise UserError(
                f"BatchMosaic: scaling is {list(self.scaling)}; expected [low, high] with 0 < low "
                "<= high <= 1"
            )

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        images, number, rows = batch["image"], len(batch["image"]), batch["boxes"].shape[1]
        mixed = {
            "image": images.copy(),
            "boxes": np.full((number, 4 * rows, 4), -1, batch["boxes"].dtype),
            "classes": np.full((number, 4 * rows), -1, batch["classes"].dtype),
            "count": batch["count"].copy(),
        }
        for place in range(number):
            others = [place]
            if rng.random() < self.prob:
                others += rng.integers(number, size=3).tolist()
                boxes, classes = self._mosaic(batch, others, mixed["image"][place], rng)
            else:
                count = int(batch["count"][place])
                boxes, classes = (batch[name][place][:count] for name in ("boxes", "classes"))
            mixed["count"][place] = len(boxes)
            mixed["boxes"][place, : len(boxes)] = boxes
            mixed["classes"][place, : len(boxes)] = classes
        return batch | mixed

    def _mosaic(
        self, batch: Batch, members: list[int], canvas: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fill `canvas` (C, H, W); the boxes (n, 4) on it and their classes (n,)."""
        _, height, width = canvas.shape
        canvas[:] = 0
        scale = rng.uniform(*self.scaling)
        part_width, part_height = max(1, round(width * scale)), max(1, round(height * scale))
        x = int(rng.integers(width // 4, width - width // 4 + 1))
        y = int(rng.integers(height // 4, height - height // 4 + 1))
        boxes, classes = [], []
        for quarter, member in enumerate(members):
            left = x - part_width if quarter % 2 == 0 else x
            top = y - part_height if quarter < 2 else y
            x1, y1 = max(left, 0), max(top, 0)
            x2, y2 = min(left + part_width, width), min(top + part_height, height)
            part = cv2.resize(batch["image"][member].transpose(1, 2, 0), (part_width, part_height))
            part = part.reshape(part_height, part_width, -1).transpose(2, 0, 1)  # (C, h, w)
            canvas[:, y1:y2, x1:x2] = part[:, y1 - top : y2 - top, x1 - left : x2 - left]
            count = int(batch["count"][member])
            grown = np.array([part_width / width, part_height / height] * 2, np.float32)
            moved = batch["boxes"][member][:count] * grown + np.array([left, top] * 2, np.float32)
            clipped = moved.clip([x1, y1, x1, y1], [x2, y2, x2, y2]).astype(np.float32)
            seen = area(clipped) > np.maximum(self.visible * area(moved), 1e-6)
            boxes.append(clipped[seen])
            classes.append(batch["classes"][member][:count][seen])
        return np.concatenate(boxes), np.concatenate(classes)
