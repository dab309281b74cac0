"""What metrics of object detection collect: the objects that were found, and those that are there.

Found are the answers of the recipe's post-processing, in the pixels of the photograph and clipped
to it: a score is of what a prediction gives. Everything is kept by image, sorted by its number, so
that neither ranks nor batches change a score, and an image that comes twice counts once.
Read before: base.py. Read next: matching.py, coco_ap.py, voc_ap.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from paddle import Tensor

from ppcls_lite.errors import UserError
from ppcls_lite.metrics.base import ScoringMetric, State
from ppcls_lite.ops.boxes import around, clipped

TRUTH = ("truth", "truth_classes", "truth_areas", "truth_crowd", "truth_difficult")


class Found(NamedTuple):
    """Detections: of which image, class, score and box (x1, y1, x2, y2), k rows each."""

    image: np.ndarray
    kind: np.ndarray
    score: np.ndarray
    box: np.ndarray


class Truth(NamedTuple):
    """Objects: of which image, class and box; whether they count; m rows each.

    `crowd` are groups that nobody counted, `difficult` those that need not be found.
    """

    image: np.ndarray
    kind: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray

    @property
    def ignored(self) -> np.ndarray:
        """(m,) bool: neither to be found nor wrong to find."""
        return self.crowd | self.difficult


class ObjectMetric(ScoringMetric):
    """Collects what images have; a subclass computes its scores of `found` and `truth`.

    postprocess: its `objects(boxes (L, 4), scores (C, L))` gives rows class, score, x1 y1 x2 y2.
    """

    def __init__(self, postprocess: Any, class_num: int) -> None:
        super().__init__()
        if not hasattr(postprocess, "objects"):
            raise UserError(
                f"Infer.PostProcess is {type(postprocess).__name__}, which finds no objects; "
                f"{type(self).__name__} needs one that does, as DetectionNMS"
            )
        self.postprocess, self.class_num = postprocess, class_num

    def collect(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        if "truth" not in batch:
            raise UserError(
                f"{type(self).__name__}: the batch does not say what is in the photographs; it is "
                "for Metric.Eval, with a data set of boxes"
            )
        if not isinstance(outputs, Mapping) or not {"boxes", "scores"} <= outputs.keys():
            raise UserError(
                f"{type(self).__name__} scores boxes (N, L, 4) and scores (N, classes, L); the "
                "network gives something else: choose a detector, as PicoDet, in Arch"
            )
        boxes, scores = outputs["boxes"].numpy(), outputs["scores"].numpy()
        images = batch["index"].numpy()
        original, source = batch["original"].numpy(), batch["source"].numpy()
        for place, image in enumerate(images.tolist()):
            rows = self.postprocess.objects(boxes[place], scores[place])
            height, width = original[place].tolist()
            placed = clipped(around(rows[:, 2:], source[place]), width, height)
            number = np.full(len(rows), image, np.int64)
            self.append(
                found_image=number,
                found_kind=rows[:, 0].astype(np.int64),
                found_score=rows[:, 1].astype(np.float32),
                found_box=placed,
            )
        box, kind, area, crowd, difficult = (batch[name].numpy() for name in TRUTH)
        real = kind >= 0  # (N, rows)
        self.append(
            image=images,
            image_id=batch["image_id"].numpy(),
            truth_image=np.broadcast_to(images[:, None], kind.shape)[real],
            truth_kind=kind[real],
            truth_box=box[real],
            truth_area=area[real],
            truth_crowd=crowd[real] > 0,
            truth_difficult=difficult[real] > 0,
        )

    def merge(self, states: Iterable[State]) -> None:
        """As the base class, but an image that several states have counts once."""
        seen: set[int] = set()
        parts = []
        for state in states:
            new = [i for i in state.get("image", ()) if int(i) not in seen]
            seen.update(map(int, new))
            parts.append(_of_images(state, np.array(new, np.int64)) if state else state)
        super().merge(parts)


def found_in(state: State) -> Found:
    """The detections, those of an image by falling score."""
    order = np.lexsort((-state["found_score"], state["found_image"]))
    names = ("found_image", "found_kind", "found_score", "found_box")
    return Found(*(state[name][order] for name in names))


def truth_in(state: State) -> Truth:
    """The objects, by image."""
    order = np.argsort(state["truth_image"], kind="stable")
    return Truth(*(state[f"truth_{name}"][order] for name in Truth._fields))


def _of_images(state: State, images: np.ndarray) -> State:
    """What a state has of some images."""
    chosen = {}
    for name, values in state.items():
        whose = next((p for p in ("found", "truth") if name.startswith(p)), None)
        image = state[f"{whose}_image"] if whose else state["image"]
        chosen[name] = values[np.isin(image, images)]
    return chosen
