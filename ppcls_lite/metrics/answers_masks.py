"""The answers for images of pixels: what is wrong in each, and how sure the means are.

Read before: segmentation.py, answers.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PostprocessSpec
from ppcls_lite.metrics.answers import PREDICTIONS, index_of, path_of
from ppcls_lite.metrics.base import Outputs, ScoringMetric, State
from ppcls_lite.metrics.segmentation import Areas, MeanIoU
from ppcls_lite.ops.intervals import Interval, bootstrap
from ppcls_lite.ops.masks import MASK_FILL
from ppcls_lite.report.facts import names_of
from ppcls_lite.system.files import atomic_text


@register("metric")
class MaskAnswers(ScoringMetric):
    """Each image's scores, and intervals of `miou` and `pixel_acc` from them.

    Its report is predictions.csv: the mIoU of the classes in the image's mask or answer, the share
    of right pixels, and the class with the most wrong ones. It adds no score.

    absent, postprocess: as of MeanIoU.
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
        self._mean = MeanIoU(class_num, absent, postprocess)

    def see(self, dataset: Any) -> None:
        self._mean.see(dataset)

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        rows = np.stack([self._areas(*p) for p in self._mean.answers(outputs, batch)])  # (N, 3, C)
        self.append(index=index_of(self._seen, batch, len(rows)), areas=rows)

    def _areas(self, found: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Right, found and true pixels of each class, (3, C) int64."""
        counts = truth != MASK_FILL
        found, truth = found[counts], truth[counts]
        parts = (truth[found == truth], found[found >= 0], truth)
        return np.stack([np.bincount(part, minlength=self.class_num) for part in parts])

    def compute(self, state: State) -> dict[str, float]:
        return {}

    def intervals(self) -> dict[str, Interval]:
        areas = self.state()["areas"].astype(np.float64)  # (N, 3, C)
        flat = areas.reshape(len(areas), -1)

        def drawn(weights: np.ndarray) -> Areas:
            return Areas(*(weights @ flat).reshape(3, -1))

        found = {
            "miou": bootstrap(lambda w: drawn(w).mean_iou(self.absent), len(areas)),
            "pixel_acc": bootstrap(lambda w: drawn(w).accuracy(), len(areas)),
        }
        return {name: interval for name, interval in found.items() if interval}

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        state = self.state()
        titles = names_of(self.class_num, names)
        path = folder / PREDICTIONS
        with atomic_text(path, newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "miou", "pixel_acc", "worst_class", "its_wrong_pixels"])
            for n in np.argsort(state["index"], kind="stable"):
                areas = Areas(*state["areas"][n])
                wrong = areas.truth - areas.right
                worst = int(wrong.argmax())
                row = [path_of(int(state["index"][n]), self.paths)]
                row += [f"{areas.mean_iou('skip'):.5f}", f"{areas.accuracy():.5f}"]
                table.writerow([*row, titles[worst] if wrong[worst] else "", wrong[worst]])
        return [path]
