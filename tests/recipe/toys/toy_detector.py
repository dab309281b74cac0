"""A detector in one file: one box and its classes for each cell of a coarse grid.

Everything that makes the problem a detector is here, as the parts of any plug-in.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite import register
from ppcls_lite.config.schema import NonNegativeInt, PositiveInt, Probability, TransformSpec
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import Agreement, distance, relative_difference
from ppcls_lite.inference.postprocess.base import Column, Postprocess, Result
from ppcls_lite.inference.spec import OutputKind, Outputs
from ppcls_lite.losses.base import Loss
from ppcls_lite.metrics.base import CountingMetric, State
from ppcls_lite.models.network import Network

STRIDE = 16  # pixels of a cell


@register("model")
class ToyDetector(Network):
    """Four convolutions; a cell says what has its centre there, and where that begins and ends.

    class_num: kinds of objects. size: of the square images. width: of the first convolution.
    """

    outputs = ("boxes", "scores")
    head_layers = ("scores",)

    def __init__(
        self, class_num: PositiveInt, size: PositiveInt = 64, width: PositiveInt = 12
    ) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 3 * width, 4 * width]
        self.trunk = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2D(a, b, 3, stride=2, padding=1), nn.BatchNorm2D(b), nn.Hardswish()
                )
                for a, b in itertools.pairwise(channels)
            )
        )
        self.boxes = nn.Conv2D(channels[-1], 4, 1)
        self.scores = nn.Conv2D(channels[-1], class_num, 1)
        y, x = np.mgrid[: size // STRIDE, : size // STRIDE] * STRIDE + STRIDE / 2
        corners = np.stack([x, y, x, y]).reshape(1, 4, -1).astype(np.float32)
        self.register_buffer("centres", paddle.to_tensor(corners), persistable=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) -> `boxes` (N, 4, K), x1 y1 x2 y2 in pixels, `scores` (N, C, K)."""
        feature = self.trunk(x)  # (N, C, h, w)
        boxes = self.boxes(feature).flatten(2) * STRIDE + self.centres  # (N, 4, K)
        return {"boxes": boxes, "scores": self.scores(feature).flatten(2)}

    def deployed(self, x: Tensor) -> list[Tensor]:
        found = self(x)
        return [found["boxes"], F.sigmoid(found["scores"])]


@register("dataset")
class ToyBoxes(ImageDataset):
    """Images and their boxes from a JSON file: `[{"file": ..., "boxes": [[...]], "classes": []}]`.

    annotations: the file; the images are in the folder `images` beside it. rows: the most boxes of
    an image.
    """

    batch_keys = ("image", "boxes", "classes", "count")

    def __init__(
        self,
        annotations: str,
        transform_ops: list[TransformSpec],
        rows: PositiveInt = 4,
        class_num: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        root = Path(annotations).parent
        self.known = json.loads(Path(annotations).read_text(encoding="utf-8"))
        paths = [str(root / "images" / item["file"]) for item in self.known]
        found = 1 + max(kind for item in self.known for kind in item["classes"])
        problems = []
        if class_num is not None and found > class_num:
            problems.append(f"{annotations}: {found} classes, but Arch.class_num is {class_num}")
        super().__init__(annotations, paths, transform_ops, class_num or found, seed, problems)
        self.fixed_rows = {"boxes": rows, "classes": rows}

    def annotate(self, index: int) -> dict[str, Any]:
        item = self.known[index]
        boxes = np.array(item["boxes"], np.float32).reshape(-1, 4)  # (n, 4)
        return {"boxes": boxes, "classes": np.array(item["classes"], np.int64)}


@register("loss")
class ToyBoxLoss(Loss):
    """Cross entropy of each cell's classes, and the distance of the boxes in cells.

    Both are means over the images. weight: of the sum.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Any]:
        boxes, scores = outputs["boxes"], outputs["scores"]
        number, class_num, cells = scores.shape
        edge = round(cells**0.5)  # square images
        kinds = paddle.nn.functional.one_hot(batch["classes"].clip(min=0), class_num)
        centres = ((batch["boxes"][..., :2] + batch["boxes"][..., 2:]) / (2 * STRIDE)).floor()
        cell = (centres[..., 1] * edge + centres[..., 0]).clip(0, cells - 1).astype("int64")
        real = (batch["classes"] >= 0).astype("float32").unsqueeze(-1)  # (N, rows, 1)
        here = F.one_hot(cell, cells) * real  # (N, rows, K)
        target = kinds.transpose([0, 2, 1]) @ here  # (N, C, K)
        found = here @ boxes.transpose([0, 2, 1])  # (N, rows, 4)
        apart = (found - batch["boxes"]).abs() * real / STRIDE
        entropy = F.binary_cross_entropy_with_logits(scores, target, reduction="sum")
        return {
            "ToyScore": self.weight * entropy / number,
            "ToyBox": self.weight * apart.sum() / number,
        }


@register("metric")
class ToyFound(CountingMetric):
    """F1 of the boxes: right are those of the right class that overlap by `overlap` (IoU)."""

    main = "f1"

    def __init__(self, overlap: Probability = 0.5, threshold: Probability = 0.5) -> None:
        super().__init__()
        self.overlap, self.threshold = overlap, threshold

    def collect(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        scores = F.sigmoid(outputs["scores"]).numpy()
        right = given = 0
        for row, boxes in enumerate(outputs["boxes"].numpy()):
            count = int(batch["count"][row])
            found = chosen(boxes, scores[row], self.threshold)
            given += len(found)
            wanted = batch["boxes"][row].numpy()[:count], batch["classes"][row].numpy()[:count]
            right += sum(
                any(kind == its and iou(box, where) >= self.overlap for where, its, _ in found)
                for box, kind in zip(*wanted)
            )
        self.add(right=np.array(right), given=np.array(given), all=batch["count"].sum().numpy())

    def compute(self, state: State) -> dict[str, float]:
        return {"f1": float(2 * state["right"] / max(1, state["given"] + state["all"]))}


@register("postprocess")
class ToyBoxOutput(Postprocess):
    """The boxes whose best class reaches the threshold, in the photograph's pixels."""

    columns = (
        Column("kind", "kind", width=4),
        Column("score", "score", width=6, digits=4),
        *(Column(edge, edge, width=7, digits=1) for edge in ("left", "top", "right", "bottom")),
    )

    def __init__(self, threshold: Probability = 0.5) -> None:
        self.threshold = threshold

    def __call__(self, outputs: Outputs, metas: Sequence[Meta] = ()) -> list[Result]:
        if {*outputs} != {"boxes", "scores"}:
            raise UserError(f"ToyBoxOutput: expected boxes and scores, found {', '.join(outputs)}")
        results = []
        for number, (boxes, scores) in enumerate(zip(outputs["boxes"], outputs["scores"])):
            found = chosen(boxes, scores, self.threshold)
            placed = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
            if metas:
                placed = metas[number].boxes_back(placed)
            results.append(
                {
                    "boxes": placed.astype(float).round(2).tolist(),
                    "kinds": [kind for _, kind, _ in found],
                    "scores": [round(score, 4) for _, _, score in found],
                }
            )
        return results

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        items = zip(result["kinds"], result["scores"], result["boxes"])
        return [(kind, score, *box) for kind, score, box in items] or [("", "", "", "", "", "")]

    def agreement(
        self, reference: Outputs, found: Outputs, kind: OutputKind = "probabilities"
    ) -> Agreement:
        """An image's answer is the set of its cells and classes."""
        before, after = (o["scores"] >= self.threshold for o in (reference, found))
        margin = np.abs(reference["scores"] - self.threshold)  # (N, C, K)
        return Agreement(
            difference=relative_difference(reference, found),
            distance=distance({"scores": reference["scores"]}, {"scores": found["scores"]}),
            lost=np.where(before != after, margin, 0).max(axis=(1, 2)),
            lead=margin.min(axis=(1, 2)),
            answer="boxes",
        )

    def draw(self, image: np.ndarray, result: Result) -> np.ndarray:
        picture = np.ascontiguousarray(image).copy()
        for x1, y1, x2, y2 in np.round(result["boxes"]).astype(int).tolist():
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), (0, 255, 0))
        return picture


def chosen(
    boxes: np.ndarray, scores: np.ndarray, threshold: float
) -> list[tuple[np.ndarray, int, float]]:
    """(box, class, score) of the cells that see something; boxes (4, K), scores (C, K)."""
    best = scores.argmax(axis=0)
    cells = np.flatnonzero(scores.max(axis=0) >= threshold)
    return [(boxes[:, k], int(best[k]), float(scores[best[k], k])) for k in cells]


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Shared area over joint area of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)
