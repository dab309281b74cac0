"""Boxes and class scores to objects: suppression of doubles, and the way back to the photograph.

The settings here are those of evaluation, prediction and export alike. Read before: base.py,
ppcls_lite/ops/nms.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeInt, Probability
from ppcls_lite.data.box_pictures import draw_boxes
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import Agreement, relative_difference
from ppcls_lite.inference.postprocess.base import Column, Ending, Part, Postprocess, Result
from ppcls_lite.inference.postprocess.detection_files import coco_results, yolo_labels
from ppcls_lite.inference.spec import OutputKind, Outputs
from ppcls_lite.ops.boxes import iou
from ppcls_lite.ops.nms import cut_off, merged_slices, multiclass_nms

_ALL = -1
_SAME_BOX, _LEEWAY = 0.7, 0.2  # IoU and relative score at which an object is the same one


@register("postprocess")
@dataclass
class DetectionNMS(Postprocess):
    """The objects of an image, those of a class by falling score.

    Args:
        score_threshold: only scores above it count.
        nms_threshold: of two boxes of a class that overlap more (IoU) the surer one stays.
        nms_top_k: so many boxes of each class are looked at; null: all.
        keep_top_k: so many objects stay, the surest; null: all.
        across_classes: boxes of different classes suppress each other, too.
        class_id_map_file, label_list: the names of the classes.
        draw_threshold: the score from which an object is in a picture.
    """

    score_threshold: Probability = 0.025
    nms_threshold: Probability = 0.6
    nms_top_k: NonNegativeInt | None = 1000
    keep_top_k: NonNegativeInt | None = 100
    across_classes: bool = False
    class_id_map_file: str | None = None
    delimiter: str | None = None
    label_list: list[str] | None = None
    draw_threshold: Probability = 0.5

    merges = True
    forms = MappingProxyType({"coco": coco_results, "yolo": yolo_labels})
    columns = (
        Column("class_id", "class", width=6),
        Column("score", "score", width=6, digits=4),
        *(Column(edge, edge, width=8, digits=1) for edge in ("x1", "y1", "x2", "y2")),
        Column("label_name", "label"),
    )

    def __post_init__(self) -> None:
        if self.label_list is None and self.class_id_map_file is not None:
            self.label_list = read_label_file(self.class_id_map_file, self.delimiter)

    def __call__(self, outputs: Outputs, metas: Sequence[Meta] = ()) -> list[Result]:
        """`boxes` (N, L, 4) and `scores` (N, C, L) to the objects in each photograph's pixels.

        `size` is the photograph's, height and width, where `metas` say it.
        """
        if {*outputs} != {"boxes", "scores"}:
            raise UserError(
                f"DetectionNMS: the network gives {', '.join(outputs)}; expected boxes and scores"
            )
        count = outputs["scores"].shape[1]
        if self.label_list is not None and len(self.label_list) != count:
            raise UserError(
                f"{self.class_id_map_file or 'label_list'} names {len(self.label_list)} classes, "
                f"the network has {count}: set Infer.PostProcess.class_id_map_file to the label "
                "file it was trained with, or to null for answers without names"
            )
        results = []
        for number, (boxes, scores) in enumerate(zip(outputs["boxes"], outputs["scores"])):
            found = self.objects(boxes, scores)
            placed, size = found[:, 2:], {}
            if metas:
                placed = metas[number].boxes_back(placed)
                size = {"size": [metas[number].height, metas[number].width]}
            results.append(self._result(found, placed, size))
        return results

    def _result(self, found: np.ndarray, placed: np.ndarray, size: Result) -> Result:
        kinds = found[:, 0].astype(int).tolist()
        return {
            "boxes": placed.astype(float).round(2).tolist(),
            "class_ids": kinds,
            "scores": found[:, 1].astype(float).round(5).tolist(),
            "label_names": [self.label_list[kind] for kind in kinds] if self.label_list else [],
            **size,
        }

    def objects(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Boxes (L, 4) and scores (C, L) of an image to rows class, score, x1, y1, x2, y2, (n, 6).

        In the pixels of the network's input.
        """
        limits = (self.score_threshold, self.nms_threshold, *self._limits())
        found = multiclass_nms(boxes, scores, *limits, self.across_classes)
        return found[np.isfinite(found).all(axis=1)]

    def _limits(self) -> tuple[int, int]:
        """nms_top_k and keep_top_k as numbers."""
        top, keep = (_ALL if k is None else k for k in (self.nms_top_k, self.keep_top_k))
        return top, keep

    def agreement(
        self, reference: Outputs, found: Outputs, kind: OutputKind = "probabilities"
    ) -> Agreement:
        """The answer is the objects from `draw_threshold` on, of an unsure image from half of its
        best score on; what counts is the share that the other run does not have, and how far
        scores are apart.
        """
        same = [
            self._shared(
                *(self.objects(run["boxes"][n], run["scores"][n]) for run in (reference, found))
            )
            for n in range(len(reference["boxes"]))
        ]
        share = np.array(same)
        moved = np.abs(found["scores"] - reference["scores"]).max(axis=(1, 2))
        none = np.zeros(len(share))
        far = np.maximum(1 - share, moved)
        difference = relative_difference(reference, found)
        return Agreement(difference, far, none, none, "objects", same_parts=share)

    def endings(self) -> Mapping[str, Callable[[], Ending]]:
        return {"nms": self._nms_ending}

    def _nms_ending(self) -> Ending:
        from ppcls_lite.inference.postprocess.detection_program import nms_ending  # needs Paddle

        if self.across_classes:
            raise UserError(
                "export --with nms: a program cannot suppress across classes; set "
                "Infer.PostProcess.across_classes to false, or leave the program out"
            )
        return nms_ending(
            *(self.score_threshold, self.nms_threshold, *self._limits()),
            lambda boxes, scores, rows: self._shared(self.objects(boxes, scores), rows),
        )

    def _shared(self, before: np.ndarray, after: np.ndarray) -> float:
        """The share of the objects (n, 6) of two runs that the other one has, too.

        One that the other run puts a little below the limit is there.
        """
        best = before[:, 1].max(initial=0.0)
        limit = min(self.draw_threshold, best / 2)
        pairs = (before, after), (after, before)
        shared, count = 0, 0
        for mine, theirs in pairs:
            sure = mine[mine[:, 1] >= limit]
            near = theirs[theirs[:, 1] >= limit * (1 - _LEEWAY)]
            overlaps = iou(sure[:, None, 2:], near[None, :, 2:])  # (n, m)
            matches = (overlaps >= _SAME_BOX) & (sure[:, None, 0] == near[None, :, 0])
            shared, count = shared + int(matches.any(axis=1).sum()), count + len(sure)
        return shared / count if count else 1.0

    def merged(self, parts: Sequence[Part], size: tuple[int, int]) -> Result:
        """The objects of all parts, each once: `merged_slices` with the settings above."""
        rows, unsure = [], []
        for result, window, least in parts:
            found = np.array(result["boxes"], np.float64).reshape(-1, 4)
            small = (found[:, 2:] - found[:, :2] < least).all(axis=1)
            unsure.append(cut_off(found, window, size) | small)
            placed = found + np.array(window[:2] * 2)
            kinds, scores = (np.array(result[key])[:, None] for key in ("class_ids", "scores"))
            rows.append(np.concatenate([kinds, scores, placed], axis=1))
        objects = np.concatenate(rows)  # (n, 6)
        most = _ALL if self.keep_top_k is None else self.keep_top_k
        options = (self.nms_threshold, most, self.across_classes)
        kept = objects[merged_slices(objects, np.concatenate(unsure), *options)]
        return self._result(kept, kept[:, 2:], {"size": list(size)})

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        names = result["label_names"] or [""] * len(result["scores"])
        items = zip(result["class_ids"], result["scores"], result["boxes"], names, strict=True)
        found = sorted(((kind, score, *box, name) for kind, score, box, name in items), key=_surest)
        return found or [("", "", "", "", "", "", "(nothing)")]

    def draw(self, image: np.ndarray, result: Result, scored: bool = True) -> np.ndarray:
        """The boxes from `draw_threshold` on, with class and score, the surest on top.

        Without `scored` the class alone, for what is known to be there.
        """
        shown = [row for row in self.rows(result) if row[1] != "" and row[1] >= self.draw_threshold]
        shown.reverse()
        texts = [
            f"{name or kind} {score:.2f}" if scored else f"{name or kind}"
            for kind, score, *_, name in shown
        ]
        return draw_boxes(image, [row[2:6] for row in shown], [row[0] for row in shown], texts)

    def layer(self, result: Result, size: tuple[int, int]) -> np.ndarray | None:
        """The same boxes without the photograph; None where there are none."""
        dark, bright = (
            self.draw(np.full((*size, 3), level, np.uint8), result) for level in (0, 255)
        )
        drawn = (dark == bright).all(axis=2, keepdims=True)  # whatever lies below
        return np.concatenate([dark, drawn * np.uint8(255)], axis=2) if drawn.any() else None


def _surest(row: tuple[Any, ...]) -> float:
    return -row[1]
