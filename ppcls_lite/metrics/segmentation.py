"""Scores of classes of pixels, from their confusion matrix over the whole set.

Counts are added up, so neither the number of processes nor the batch size changes a score. What a
class that occurs nowhere counts is a convention, in which toolkits differ; the table names it.
Read before: confusion.py, ../ops/placing.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PostprocessSpec
from ppcls_lite.errors import UserError
from ppcls_lite.metrics.base import CountingMetric, Outputs, State, answered
from ppcls_lite.metrics.confusion import draw
from ppcls_lite.ops.masks import MASK_FILL
from ppcls_lite.ops.placing import classes_in_photograph, scores_in_photograph
from ppcls_lite.report.facts import Classes, cells_of, names_of
from ppcls_lite.report.words import confused, worst_first
from ppcls_lite.system.files import write_text

Absent = Literal["skip", "one"]
_CONVENTION = {
    "skip": "classes that occur neither in a mask nor in an answer are left out of the means",
    "one": "classes that occur neither in a mask nor in an answer count 1 in mIoU, as in PaddleSeg",
}


class Photograph(NamedTuple):
    """The way of one image back to its photograph (ops/placing.py)."""

    height: int
    width: int
    source: np.ndarray


class Areas(NamedTuple):
    """Pixels by class, (C,) each: right ones, those found as the class, those that are of it."""

    right: np.ndarray
    found: np.ndarray
    truth: np.ndarray

    @property
    def occurs(self) -> np.ndarray:
        """Which classes are in a mask or an answer."""
        return self.found + self.truth > 0

    @property
    def iou(self) -> np.ndarray:
        return _share(self.right, self.found + self.truth - self.right)

    @property
    def precision(self) -> np.ndarray:
        return _share(self.right, self.found)

    @property
    def recall(self) -> np.ndarray:
        return _share(self.right, self.truth)

    @property
    def dice(self) -> np.ndarray:
        return _share(2 * self.right, self.found + self.truth)

    def mean_iou(self, absent: Absent) -> float:
        """The mean over the classes that occur, or over all, of which absent ones count 1."""
        if absent == "skip":
            return float(self.iou[self.occurs].mean()) if self.occurs.any() else 0.0
        return float(np.where(self.occurs, self.iou, 1).mean())

    def mean_dice(self, absent: Absent) -> float:
        """The same of Dice coefficients; PaddleSeg, `one`, has 0 for absent classes here."""
        if absent == "skip":
            return float(self.dice[self.occurs].mean()) if self.occurs.any() else 0.0
        return float(self.dice.mean())

    def accuracy(self) -> float:
        """The share of right pixels."""
        return float(self.right.sum() / max(self.truth.sum(), 1))

    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance; 0 where chance alone explains everything."""
        total = max(self.truth.sum(), 1)
        chance = float((self.found / total * (self.truth / total)).sum())
        return (self.accuracy() - chance) / (1 - chance) if chance < 1 else 0.0


@register("metric")
class MeanIoU(CountingMetric):
    """`miou`: the mean intersection over union of the classes; accuracy, kappa and Dice beside it.

    The network gives logits (N, C, H, W) or classes (N, H, W); `batch["mask"]` (N, H, W) has the
    truth, of which `MASK_FILL` does not count. A pixel whose logits are not finite counts as
    missed, as no class.

    Of an evaluation whose transforms resize or crop an image, its answer in the photograph's own
    pixels is scored, as a prediction gives it, by the mask as it is in its file; what the network
    did not see is missed.

    Its report is per_class.txt, the scores of each class, confusion_matrix.png, and both as plain
    data in classes.json.

    Args:
        absent: `skip` leaves classes that occur nowhere out of the means, `one` counts them as
            PaddleSeg does (1 in mIoU, 0 in Dice).
        postprocess: how a prediction brings answers to the photograph's size; what
            Infer.PostProcess says. Without one, logits are interpolated, as PaddleSeg does.
    """

    reports = True

    def __init__(
        self,
        class_num: ClassCount,
        absent: Literal["skip", "one"] = "skip",
        postprocess: PostprocessSpec | None = None,
    ) -> None:
        super().__init__()
        self.class_num, self.absent = class_num, absent
        self._place = getattr(postprocess, "classes", classes_placed)
        self._dataset: Any = None

    def see(self, dataset: Any) -> None:
        self._dataset = dataset

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        for found, truth in self.answers(outputs, batch):
            self._count(found, truth)

    def answers(
        self, outputs: Outputs, batch: Mapping[str, Tensor]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The answer and the mask of each image, (H, W) int64 both; -1 is no answer."""
        found = classes_of(outputs)  # (N, H, W), -1 without an answer
        truth = batch["mask"].numpy().astype(np.int64)
        if truth.shape != found.shape:
            raise UserError(f"the masks are {truth.shape}, the network's answers {found.shape}")
        moved = self._moved(batch, truth.shape)
        for place in range(len(found)):
            own = found[place]
            if not moved[place]:
                yield own, truth[place]
                continue
            index, original, source = (
                batch[name].numpy()[place] for name in ("index", "original", "source")
            )
            way = Photograph(*original.tolist(), source.astype(np.float64))
            if (own >= 0).all():
                own = self._place(_one(outputs)[place].numpy(), way)
            else:  # numbers that are none spoil an interpolation: the nearest class, or none
                own = classes_in_photograph(np.where(own < 0, MASK_FILL, own), way)
            own = np.where(own == MASK_FILL, -1, own.astype(np.int64))
            yield own, self._dataset.annotate(int(index))["mask"].astype(np.int64)

    def _moved(self, batch: Mapping[str, Tensor], shape: Sequence[int]) -> np.ndarray:
        """(N,) bool: which images have other pixels than their photographs, borders apart."""
        if self._dataset is None or "source" not in batch:
            return np.zeros(shape[0], bool)
        same = (batch["source"].numpy() == np.eye(2, 3)).all(axis=(1, 2))
        return ~same | (batch["original"].numpy() > shape[1:]).any(axis=1)

    def _count(self, found: np.ndarray, truth: np.ndarray) -> None:
        """Add answers and masks of one shape, int64; -1 is no answer."""
        counts = truth != MASK_FILL
        truth, found = truth[counts], found[counts]
        if truth.size and truth.max() >= self.class_num:
            raise UserError(
                f"a mask has the class {truth.max()}, but there are {self.class_num}, from 0 on: "
                f"raise Arch.class_num, or mend the masks ({MASK_FILL} does not count)"
            )
        missed = np.bincount(truth[found < 0], minlength=self.class_num)
        pairs = (truth * self.class_num + found)[found >= 0]
        matrix = np.bincount(pairs, minlength=self.class_num**2)
        matrix = matrix.reshape(self.class_num, self.class_num)
        self.add(matrix=matrix, missed=missed)

    def compute(self, state: State) -> dict[str, float]:
        areas = _areas(state)
        if not areas.truth.sum():
            return {}
        return {
            "miou": areas.mean_iou(self.absent),
            "pixel_acc": areas.accuracy(),
            "kappa": areas.kappa(),
            "mdice": areas.mean_dice(self.absent),
        }

    @property
    def matrix(self) -> np.ndarray:
        """Pixels (class_num, class_num) int64: rows are the truth, columns the answers."""
        return self.state()["matrix"]

    @property
    def areas(self) -> Areas:
        """What all scores follow from."""
        return _areas(self.state())

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        table, picture = folder / "per_class.txt", folder / "confusion_matrix.png"
        write_text(table, self.table(names) + "\n")
        draw(self.matrix, picture, names, unit="pixels")
        return [table, picture, self.classes(names).write(folder)]

    def classes(self, names: Sequence[str] | None = None) -> Classes:
        """The scores of every class and the matrix, as plain data."""
        areas = self.areas
        parts = (areas.iou, areas.precision, areas.recall, areas.dice, areas.truth)
        rows: list[list[float | None]] = [
            list(row) if occurs else [None] * 4 + [0]
            for *row, occurs in zip(*(part.tolist() for part in parts), areas.occurs)
        ]
        columns = ["IoU", "precision", "recall", "Dice", "pixels"]
        titles = names_of(self.class_num, names)
        return Classes("pixels", titles, columns, rows, "IoU", cells_of(self.matrix))

    def summary(self, names: Sequence[str] | None = None) -> list[str]:
        classes = self.classes(names)
        return [*worst_first(classes), *confused(classes)]

    def table(self, names: Sequence[str] | None = None) -> str:
        """The scores of every class as text, one a line, and the means with their convention."""
        areas = self.areas
        titles = [names[i] if names else str(i) for i in range(self.class_num)]
        width = max(len("class"), *map(len, titles))
        lines = [f"{'class':<{width}}     IoU  precision  recall    Dice  share of pixels"]
        total = max(areas.truth.sum(), 1)
        for i, title in enumerate(titles):
            scores = (areas.iou[i], areas.precision[i], areas.recall[i], areas.dice[i])
            text = "  ".join(f"{s:>{w}.4f}" for s, w in zip(scores, (6, 9, 6, 6)))
            text = text if areas.occurs[i] else "     -          -       -       -"
            lines.append(f"{title:<{width}}  {text}  {areas.truth[i] / total:15.4%}")
        means = {way: areas.mean_iou(way) for way in _CONVENTION}
        other = "one" if self.absent == "skip" else "skip"
        lines += [
            "",
            f"mIoU {means[self.absent]:.4f}: {_CONVENTION[self.absent]}",
            f"({means[other]:.4f} where {_CONVENTION[other]})",
            f"{int(areas.occurs.sum())} of {self.class_num} classes occur; {int(total):,} pixels, "
            f"{areas.accuracy():.4%} right, kappa {areas.kappa():.4f}, "
            f"mean Dice {areas.mean_dice(self.absent):.4f}",
        ]
        return "\n".join(lines)


def classes_of(outputs: Outputs) -> np.ndarray:
    """The class of each pixel (N, H, W) int64; -1 where a logit is not finite."""
    outputs = _one(outputs)
    if outputs.ndim == 3:
        return outputs.numpy().astype(np.int64)
    found = outputs.argmax(axis=1).numpy()
    return np.where(answered(outputs).numpy(), found, -1)


def classes_placed(found: np.ndarray, way: Photograph) -> np.ndarray:
    """Classes (h, w) or logits (C, h, w) as the classes (height, width) of a photograph."""
    if found.ndim == 2:
        return classes_in_photograph(found, way)
    return scores_in_photograph(found, way)[0]


def _one(outputs: Outputs) -> Tensor:
    """Classes (N, h, w) or logits (N, C, h, w)."""
    if isinstance(outputs, Mapping):
        return outputs["classes"] if "classes" in outputs else outputs["logits"]
    return outputs


def _areas(state: State) -> Areas:
    matrix = state["matrix"]
    return Areas(np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1) + state["missed"])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
