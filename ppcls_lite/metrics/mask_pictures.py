"""Pictures of an evaluation of pixels: images, truth, answer and where the two differ.

A training shows the first images after every evaluation; the report shows the worst ones, small
copies of which are the metric's state. Read before: segmentation.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Repeats
from ppcls_lite.metrics.answers import path_of
from ppcls_lite.metrics.base import Metric, Outputs, State
from ppcls_lite.metrics.segmentation import classes_of
from ppcls_lite.ops.masks import MASK_FILL
from ppcls_lite.ops.palettes import colours_of, over
from ppcls_lite.report.facts import ImageGroup, write_images
from ppcls_lite.report.pictures import captioned, write_image

_EDGE = 160  # pixels of a small copy
_KEPT = "image", "truth", "found"
_WRONG = np.array([220, 30, 30], np.uint8)


@register("metric")
class MaskPictures(Metric):
    """Small pictures of the `worst` images, by their share of wrong pixels, and of the `first`.

    The report is worst_images.png, a row for each image: the image, the truth and the answer over
    it, and in red the pixels that are wrong. It adds no score.
    """

    reports = True

    def __init__(self, worst: Repeats = 6, first: Repeats = 2) -> None:
        super().__init__()
        self.worst, self.first = worst, first

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        found, truth = classes_of(outputs), batch["mask"].numpy()
        images = batch["image"]
        counts = truth != MASK_FILL
        wrong = ((found != truth) & counts).sum(axis=(1, 2)) / counts.sum(axis=(1, 2)).clip(1)
        place = batch["index"].numpy() if "index" in batch else self._place + np.arange(len(wrong))
        self._place += len(wrong)
        for number in self._kept(wrong, place):
            row = _row(images[int(number)].numpy(), truth[number], found[number])
            self._take({"wrong": wrong[number], "place": place[number], **row})

    def _kept(self, wrong: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Which of new images may be among those that are kept."""
        known = self._seen.get("wrong", np.zeros(0))
        limit = np.sort(known)[-self.worst] if len(known) >= self.worst else -1
        return np.flatnonzero((wrong > limit) | (place < self.first))

    def _take(self, row: Mapping[str, np.ndarray]) -> None:
        new = {name: np.asarray(value)[None] for name, value in row.items()}
        self._load([self._seen, new] if self._seen else [new])

    def _load(self, states: Sequence[State]) -> None:
        """Keep the worst and the first of several states."""
        joined = {name: np.concatenate([s[name] for s in states]) for name in states[0]}
        order = np.lexsort([joined["place"], -joined["wrong"]])
        kept = order[(np.arange(len(order)) < self.worst) | (joined["place"][order] < self.first)]
        self._seen = {name: array[kept] for name, array in joined.items()}

    def reset(self) -> None:
        super().reset()
        self._place = 0

    def state(self) -> State:
        return dict(self._seen)

    def merge(self, states: Iterable[State]) -> None:
        self.reset()
        parts = [state for state in states if state]
        if parts:
            self._load(parts)

    def compute(self, state: State) -> dict[str, float]:
        return {}

    def pictures(self) -> dict[str, np.ndarray]:
        if not self._seen:
            return {}
        first = np.argsort(self._seen["place"], kind="stable")[: self.first]
        return {"predictions": self._picture(first)}

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        path = folder / "worst_images.png"
        worst = np.arange(len(self._seen["wrong"]))[: self.worst]
        picture = self._picture(worst, names, [self._caption(number) for number in worst])
        write_image(picture, path)
        title = "The images with the most wrong pixels: image, truth, answer, mistakes"
        return [path, write_images(folder, [ImageGroup(title, [], path.name)])]

    def _caption(self, number: int) -> str:
        name = Path(path_of(int(self._seen["place"][number]), self.paths)).name
        return f"{name}: {self._seen['wrong'][number]:.1%} of the pixels are wrong"

    def _picture(
        self, chosen: np.ndarray, names: Sequence[str] | None = None, captions: Sequence[str] = ()
    ) -> np.ndarray:
        """Rows (4 pictures each) of the chosen images, with captions below them."""
        colours = colours_of("auto", names)
        rows = []
        for number in chosen:
            image, truth, found = _unfilled(*(self._seen[n][number] for n in _KEPT))
            wrong = (truth != found) & (truth != MASK_FILL)
            red = over(image, np.where(wrong, 0, MASK_FILL).astype(np.uint8), _WRONG[None], 0.8)
            parts = [image, over(image, truth, colours, 0.6), over(image, found, colours, 0.6), red]
            row = np.concatenate([_bordered(part, 1, 1, 1) for part in parts], axis=1)
            row = _bordered(row, 0, 0, 4 * (_EDGE + 2) - row.shape[1])
            rows.append(captioned(row, captions[len(rows)]) if captions else row)
        return np.concatenate(rows)


def _bordered(picture: np.ndarray, around: int, left: int, right: int) -> np.ndarray:
    """With white pixels above and below, to the left and to the right."""
    return np.pad(picture, [(around, around), (left, right), (0, 0)], constant_values=255)


def _unfilled(
    image: np.ndarray, truth: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A small copy and its masks without what `_small` has filled up."""
    real = (image != 255).any(axis=2) | (truth != MASK_FILL) | (found != MASK_FILL)
    height, width = (1 + int(np.flatnonzero(real.any(axis=a)).max(initial=0)) for a in (1, 0))
    return image[:height, :width], truth[:height, :width], found[:height, :width]


def _row(image: np.ndarray, truth: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Small copies of an image (C, H, W), stretched to its own range, and of its two masks."""
    low, high = float(image.min()), float(image.max())
    pixels = ((image[:3] - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
    pixels = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)  # (H, W, 3)
    found = np.where(found < 0, MASK_FILL, found)
    masks = {"truth": truth, "found": found}
    return {"image": _small(pixels, cv2.INTER_AREA, 255)} | {
        name: _small(mask.astype(np.uint8), cv2.INTER_NEAREST, MASK_FILL)
        for name, mask in masks.items()
    }


def _small(picture: np.ndarray, method: int, fill: int) -> np.ndarray:
    """(H, W, ...) as (_EDGE, _EDGE, ...): as large as it fits, the rest filled."""
    height, width = picture.shape[:2]
    scale = _EDGE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=method)
    borders = 0, _EDGE - size[1], 0, _EDGE - size[0]
    return cv2.copyMakeBorder(small, *borders, cv2.BORDER_CONSTANT, value=(fill,) * 3)
