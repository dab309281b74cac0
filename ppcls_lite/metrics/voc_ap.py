"""Average precision as Pascal VOC defines it, in both of its ways.

Differs from COCO's AP50 on the same answers, by some points: a pixel more at every edge, a second
detection of an object is wrong even where another object is free, difficult objects do not count,
and another area under the curve. Source: Everingham et al., "The Pascal Visual Object Classes
(VOC) Challenge", IJCV 2010, and the development kits of 2007 (11 points) and 2012 (the area).
Read before: objects.py, matching.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PostprocessSpec, Probability
from ppcls_lite.metrics.base import State
from ppcls_lite.metrics.matching import pairs_of
from ppcls_lite.metrics.objects import Found, ObjectMetric, Truth, found_in, truth_in
from ppcls_lite.system.files import write_text

NAMES = {"11point": "VOC_AP_11point", "integral": "VOC_AP_integral"}


@register("metric")
class VocAP(ObjectMetric):
    """The mean over the classes of VOC's AP at one IoU, `VOC_AP_11point` and `VOC_AP_integral`.

    11 points: the mean of the largest precision from each recall 0, 0.1, ..., 1 on. integral: the
    precision summed over the steps of the recall, as PaddleDetection has it. A class without an
    object does not count, one without a detection has 0.

    Args:
        postprocess: whose answers are scored; what Infer.PostProcess says.
        map_type: which of the two is the main value.
        overlap: the IoU that has to be exceeded.
    """

    reports = True

    def __init__(
        self,
        postprocess: PostprocessSpec,
        class_num: ClassCount,
        map_type: Literal["11point", "integral"] = "11point",
        overlap: Probability = 0.5,
    ) -> None:
        super().__init__(postprocess, class_num)
        self.kinds = (map_type, *(kind for kind in NAMES if kind != map_type))
        self.overlap = overlap

    def compute(self, state: State) -> dict[str, float]:
        per_class = voc_aps(found_in(state), truth_in(state), self.class_num, self.overlap)
        scores = {NAMES[kind]: per_class[kind] for kind in self.kinds}
        known = {name: aps[~np.isnan(aps)] for name, aps in scores.items()}
        return {name: float(aps.mean()) for name, aps in known.items() if len(aps)}

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        state = self.state()
        per_class = voc_aps(found_in(state), truth_in(state), self.class_num, self.overlap)
        titles = [names[k] if names else str(k) for k in range(self.class_num)]
        width = max(map(len, ["class", *titles]))
        lines = [f"{'class':<{width}}  {'  '.join(NAMES[kind] for kind in self.kinds)}"]
        for number, title in enumerate(titles):
            cells = (f"{per_class[k][number]:{len(NAMES[k])}.4f}" for k in self.kinds)
            lines.append(f"{title:<{width}}  {'  '.join(cells)}")
        path = folder / "voc_ap.txt"
        write_text(path, "\n".join(lines) + "\n")
        return [path]


def voc_aps(
    found: Found, truth: Truth, class_num: int, overlap: float = 0.5
) -> dict[str, np.ndarray]:
    """AP of each class (C,) by both ways; NaN for a class without an object that counts."""
    pairs = pairs_of(found, truth, pixel=1)
    best = np.full(len(found.score), -1, np.int64)  # the object of largest overlap
    order = np.lexsort((-pairs.truth, pairs.iou, pairs.found))
    best[pairs.found[order]] = np.where(pairs.iou[order] > overlap, pairs.truth[order], -1)
    aps = {kind: np.full(class_num, np.nan) for kind in NAMES}
    for number in range(class_num):
        objects = int((~truth.ignored[truth.kind == number]).sum())
        if not objects:
            continue
        own = np.flatnonzero(found.kind == number)
        own = own[np.argsort(-found.score[own], kind="stable")]
        target = best[own]
        counts = (target < 0) | ~truth.ignored[np.maximum(target, 0)]
        target = target[counts]
        first = np.zeros(len(target), bool)
        first[np.unique(target, return_index=True)[1]] = True
        right = np.cumsum(first & (target >= 0))
        recall = right / objects
        precision = right / np.arange(1, len(right) + 1)
        aps["11point"][number] = _eleven_points(recall, precision)
        aps["integral"][number] = float((np.diff(recall, prepend=0) * precision).sum())
    return aps


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    points = np.linspace(0, 1, 11)
    return float(np.mean([precision[recall >= p - 1e-9].max(initial=0) for p in points]))
