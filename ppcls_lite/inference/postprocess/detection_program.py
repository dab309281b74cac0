"""Suppression of doubles inside the exported program, for who has an engine and nothing else.

The predictor does not run it: there, thresholds can be changed. Read before: detect.py,
ppcls_lite/ops/nms.py, whose answers it gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from paddle import Tensor, _C_ops

from ppcls_lite.inference.postprocess.base import Ending
from ppcls_lite.inference.spec import Outputs

OUTPUTS = ("objects", "counts")
_NO_BACKGROUND = -1
_SHARED = 0.95  # of the objects: at ties, of which an untrained network has many, rounding decides


def nms_ending(
    score_threshold: float,
    nms_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    shared: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
) -> Ending:
    """`objects` (M, 6), of all images one after the other: class, score, x1, y1, x2, y2 in the
    pixels of the network's input; `counts` (N,): how many are an image's. -1: all.

    shared: the share of objects (n, 6) that are those of boxes (L, 4) and scores (C, L).
    """

    def run(outputs: list[Tensor]) -> list[Tensor]:
        boxes, scores = outputs
        limits = (score_threshold, nms_top_k, keep_top_k, nms_threshold)
        objects, _, counts = _C_ops.multiclass_nms3(
            boxes, scores, None, *limits, True, 1.0, _NO_BACKGROUND
        )
        return [objects, counts]

    def difference(expected: Outputs, found: Outputs) -> str | None:
        images = len(expected["boxes"])
        if len(found["counts"]) != images or found["counts"].sum() != len(found["objects"]):
            return f"counts {found['counts'].tolist()} for {len(found['objects'])} objects"
        rows = np.split(found["objects"], np.cumsum(found["counts"])[:-1])
        each = zip(expected["boxes"], expected["scores"], rows)
        share = float(np.mean([shared(*image) for image in each]))
        return None if share >= _SHARED else f"only {share:.1%} of the objects"

    return Ending(OUTPUTS, run, difference)
