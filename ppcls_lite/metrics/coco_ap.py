"""Average precision as COCO defines it, and what helps to choose a threshold.

The numbers come from faster-coco-eval, which gives those of pycocotools to the last digit in a
quarter of the time (8 s instead of 36 s of one core for 5,000 images with 400,000 detections).
Source: cocodataset.org, "Detection Evaluation"; Lin et al., arXiv 1405.0312.
Read before: objects.py, matching.py. Read next: detection_report.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PostprocessSpec, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.metrics import answers_objects, detection_report
from ppcls_lite.metrics.base import State
from ppcls_lite.metrics.certainty import Certainty, Wish
from ppcls_lite.metrics.matching import matched, operating, pairs_of
from ppcls_lite.metrics.objects import Found, ObjectMetric, Truth, found_in, truth_in
from ppcls_lite.ops.intervals import Interval
from ppcls_lite.report.words import confused, worst_first

# Objects up to 32 x 32 pixels, up to 96 x 96, above; COCO's table has all of them first.
_BY_SIZE = (("AP_small", "AR_small"), ("AP_medium", "AR_medium"), ("AP_large", "AR_large"))
_BY_COUNT = ("AR1", "AR10", "AR100")  # detections an image


class CocoTables(NamedTuple):
    """COCO's tables; -1 where there is no object of the kind.

    precision: (10 overlaps, 101 recalls, C, 4 sizes, 3 counts); recall: (10, C, 4, 3).
    """

    precision: np.ndarray
    recall: np.ndarray

    def ap(self, overlap: int | None = None, size: int = 0, kind: int | None = None) -> float:
        """AP; `overlap` 0 is IoU 0.5, 5 is 0.75, None the mean from 0.5 to 0.95. NaN: no object."""
        part = self.precision[..., size, 2]
        part = part if overlap is None else part[overlap]
        return _mean(part if kind is None else part[..., kind])

    def ar(self, size: int = 0, count: int = 2) -> float:
        """The mean of the largest recalls over overlaps and classes."""
        return _mean(self.recall[:, :, size, count])


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if len(known) else float("nan")


def coco_tables(found: Found, truth: Truth, images: np.ndarray, class_num: int) -> CocoTables:
    """COCO's evaluation of detections; `images` are the numbers of all images that were looked at.

    Raises UserError where the extra is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError(
            "COCO's average precision needs faster-coco-eval, which is not installed: "
            'pip install "ppcls-lite[detection]"'
        ) from error
    sides = truth.box[:, 2:].astype(np.float64) - truth.box[:, :2]
    columns = (truth.image, truth.kind, truth.box[:, :2], sides, truth.area, truth.ignored)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": kind,
            "bbox": [*corner, *side],
            "area": area,
            "iscrowd": int(ignored),
        }
        for number, (image, kind, corner, side, area, ignored) in enumerate(
            zip(*(column.tolist() for column in columns)), start=1
        )
    ]
    edges = found.box[:, 2:].astype(np.float64) - found.box[:, :2]
    table = np.column_stack([found.image, found.box[:, :2], edges, found.score, found.kind])
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it tells every step
    known = COCO()
    known.dataset = {
        "info": {},
        "images": [{"id": image} for image in images.tolist()],
        "categories": [{"id": kind} for kind in range(class_num)],
        "annotations": annotations,
    }
    known.createIndex()
    results = known.loadRes(table.astype(np.float64)) if len(table) else _nothing(COCO, known)
    evaluation = COCOeval_faster(known, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    return CocoTables(precision, recall)


def _nothing(make: Any, known: Any) -> Any:
    """Results without a detection, which `loadRes` refuses."""
    results = make()
    results.dataset = {**known.dataset, "annotations": []}
    results.createIndex()
    return results


@register("metric")
class CocoAP(ObjectMetric):
    """COCO's AP over IoU 0.5 to 0.95, its parts, and precision and recall at a threshold.

    `AP50` and `AP75` are of one IoU, `AP_small`, `AP_medium` and `AP_large` of objects up to 32 x
    32, up to 96 x 96 and above, in pixels of the photograph; `AR1`, `AR10` and `AR100` the recalls
    for so many detections an image; what no object is of is left out. `precision` and `recall` are
    of the detections from `score_threshold` on, over all classes at IoU 0.5, `best_f1` and
    `best_threshold` what could be chosen instead. Objects that are difficult (VOC) count like
    crowds: not at all.

    Its report: the scores of each class, their curves, the confusion matrix with a row and a column
    for the background, and the images with the most mistakes.

    Args:
        postprocess: whose answers are scored; what Infer.PostProcess says.
        score_threshold: from which an answer would be shown.
    """

    main, reports = "AP", True

    def __init__(
        self,
        postprocess: PostprocessSpec,
        class_num: ClassCount,
        score_threshold: Probability = 0.5,
    ) -> None:
        super().__init__(postprocess, class_num)
        self.score_threshold = score_threshold

    def compute(self, state: State) -> dict[str, float]:
        found, truth = found_in(state), truth_in(state)
        objects = int((~truth.ignored).sum())
        if not objects:
            return {}
        tables = coco_tables(found, truth, np.sort(state["image"]), self.class_num)
        scores = {"AP": tables.ap(), "AP50": tables.ap(0), "AP75": tables.ap(5)}
        scores |= {name: tables.ap(None, i) for i, (name, _) in enumerate(_BY_SIZE, 1)}
        scores |= {name: tables.ar(0, i) for i, name in enumerate(_BY_COUNT)}
        scores |= {name: tables.ar(i) for i, (_, name) in enumerate(_BY_SIZE, 1)}
        match = matched(found, truth, pairs_of(found, truth))
        curves = operating(found.score, match, objects)
        precision, recall, _ = curves.at(self.score_threshold)
        threshold, f1 = curves.best()
        scores |= {"precision": precision, "recall": recall}
        scores |= {"best_f1": f1, "best_threshold": threshold}
        return {name: score for name, score in scores.items() if not np.isnan(score)}

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        state = self.state()
        found, truth = found_in(state), truth_in(state)
        tables = coco_tables(found, truth, np.sort(state["image"]), self.class_num)
        rows = [[tables.ap(None, 0, k), tables.ap(0, 0, k)] for k in range(self.class_num)]
        aps = {"AP": [ap for ap, _ in rows], "AP50": [ap50 for _, ap50 in rows]}
        curves = tables.precision[0, :, :, 0, 2]  # (101, C)
        settings = detection_report.Settings(self.class_num, self.score_threshold, names)
        draw = self.postprocess.draw
        written = detection_report.write(
            *(folder, found, truth, settings, aps, curves, self.paths, draw)
        )
        order = np.sort(state["image"])
        known = (found, truth, settings, aps, order, self.paths)
        return [*written, *answers_objects.write(folder, *known)]

    def summary(self, names: Sequence[str] | None = None) -> list[str]:
        state = self.state()
        settings = detection_report.Settings(self.class_num, self.score_threshold, names)
        classes = answers_objects.classes(found_in(state), truth_in(state), settings, {})
        return [*worst_first(classes), *confused(classes)]

    def certainty(self, wish: Wish) -> Certainty | None:
        state = self.state()
        known = found_in(state), truth_in(state), len(state["image"])
        return answers_objects.certainty(*known, wish)

    def intervals(self) -> dict[str, Interval]:
        state = self.state()
        found, truth = found_in(state), truth_in(state)
        return answers_objects.intervals(found, truth, self.score_threshold, state["image"])
