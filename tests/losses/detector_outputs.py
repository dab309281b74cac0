"""What a detector says and should say in PaddleDetection's golden values, and small cases."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.ops.boxes import boxes_around

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "detection" / "loss.json").read_text(encoding="utf-8")
)
LEVELS = [(20, 24), (10, 12), (5, 6), (3, 3)]
STRIDES = [8, 16, 32, 64]


def places_of(levels: list[tuple[int, int]]) -> np.ndarray:
    """(L, 3): x, y and stride."""
    found = []
    for (height, width), stride in zip(levels, STRIDES):
        y, x = np.mgrid[:height, :width]
        cells = [(x + 0.5) * stride, (y + 0.5) * stride, np.full_like(x, stride)]
        found.append(np.stack(cells, axis=-1).reshape(-1, 3))
    return np.concatenate(found).astype(np.float32)


def outputs_of(logits: Tensor, sides: Tensor, places: np.ndarray, legacy: bool) -> dict[str, Any]:
    """What PicoDet gives, of logits (N, C, L) and sides (N, 4, 8, L)."""
    points = paddle.to_tensor(places)
    bins = paddle.arange(8, dtype="float32").reshape([1, 1, 8, 1])
    away = (F.softmax(sides, axis=2) * bins).sum(axis=2).transpose([0, 2, 1]) * points[:, 2:]
    found = {
        "boxes": boxes_around(points[:, :2], away),
        "scores": F.sigmoid(logits),
        "sides": sides,
        "places": points.unsqueeze(0).expand([logits.shape[0], -1, -1]),
    }
    return found | ({"logits": logits} if legacy else {})


def golden_outputs(legacy: bool) -> tuple[dict[str, Any], list[Tensor], list[Tensor]]:
    """The outputs of the golden values, and their logits and sides of each level."""

    def drawn(tag: str, channels: int, shape: tuple[int, int]) -> np.ndarray:
        seed = zlib.crc32(f"input:{tag}".encode())
        return np.random.RandomState(seed).standard_normal((2, channels, *shape))

    logits = [drawn(f"loss_cls{i}", 3, shape) - 2 for i, shape in enumerate(LEVELS)]
    sides = [drawn(f"loss_reg{i}", 32, shape) for i, shape in enumerate(LEVELS)]
    logits, sides = (
        [paddle.to_tensor(a.astype("float32"), stop_gradient=False) for a in levels]
        for levels in (logits, sides)
    )
    flat = [paddle.concat([level.flatten(2) for level in part], axis=2) for part in (logits, sides)]
    outputs = outputs_of(flat[0], flat[1].reshape([2, 4, 8, -1]), places_of(LEVELS), legacy)
    return outputs, logits, sides


def batch_of(boxes: list[Any], classes: list[Any], rows: int = 5) -> dict[str, Tensor]:
    """A batch of images with these boxes, in rows filled up with -1."""
    padded = np.full((len(boxes), rows, 4), -1, np.float32)
    kinds = np.full((len(boxes), rows), -1, np.int64)
    for i, (own, its) in enumerate(zip(boxes, classes)):
        padded[i, : len(own)] = np.reshape(own, (-1, 4))
        kinds[i, : len(own)] = np.reshape(its, -1)
    return {
        "image": paddle.zeros([len(boxes), 3, 8, 8]),
        "boxes": paddle.to_tensor(padded),
        "classes": paddle.to_tensor(kinds),
    }


def golden_batch() -> dict[str, Tensor]:
    truth = GOLDEN["v2"]["gt"]
    return batch_of(truth["gt_bbox"], truth["gt_class"])
