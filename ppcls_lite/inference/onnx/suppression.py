"""Suppression of doubled boxes, Paddle's multiclass_nms3, in ONNX's operations.

ONNX's own NonMaxSuppression has no limits on how many boxes of a class are looked at, and how many
objects of an image stay. Read before: graph.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.graph import GraphWriter, Translation, dtype_of

_ALL = -1
_NEVER = -1.0  # a score below every threshold
_IMAGE, _CLASS, _BOX = 0, 1, 2  # columns of what NonMaxSuppression gives


def _suppression(graph: GraphWriter, op: Any) -> None:
    """Rows class, score, box of all images, in their order and that of the classes; and counts."""
    settings = op.attrs()
    if not settings["normalized"] or settings["nms_eta"] != 1 or settings["background_label"] >= 0:
        raise UserError("ONNX: pd_op.multiclass_nms3 has a translation for plain boxes only")
    boxes, scores = (graph.name(value) for value in op.operands_source()[:2])
    objects, _, counts = op.results()
    node = graph.node
    shape = node("Shape", [scores])  # N, C, L
    places = node("Gather", [shape, _numbers(graph, 2)])
    looked_at = scores
    if (most := settings["nms_top_k"]) != _ALL:
        most = node("Min", [places, _numbers(graph, most)])
        best = node("TopK", [scores, most], 2, axis=2)
        least = node("ReduceMin", [best], axes=[2], keepdims=1)
        enough = node("GreaterOrEqual", [scores, least])
        looked_at = node("Where", [enough, scores, graph.weight(np.float32(_NEVER))])
    limits = [settings["nms_threshold"], settings["score_threshold"]]
    limits = [graph.weight(np.array([limit], np.float32)) for limit in limits]
    found = node("NonMaxSuppression", [boxes, looked_at, places, *limits])  # (M, 3)
    images = node("Gather", [shape, graph.weight(np.int64(0))])
    images = node("Range", [graph.weight(np.int64(0)), images, graph.weight(np.int64(1))])  # (N,)
    if (keep := settings["keep_top_k"]) != _ALL:
        found = _surest(graph, found, node("GatherND", [scores, found]), images, keep)
    kinds = node("Cast", [_columns(graph, found, _CLASS)], to=TensorProto.FLOAT)
    own = node("Unsqueeze", [node("GatherND", [scores, found]), _numbers(graph, 1)])
    placed = node("GatherND", [boxes, _columns(graph, found, _IMAGE, _BOX)])
    graph.node("Concat", [kinds, own, placed], [objects], axis=1)
    counted = node("ReduceSum", [_members(graph, found, images), _numbers(graph, 0)], keepdims=0)
    graph.node("Cast", [counted], [counts], to=helper.np_dtype_to_tensor_dtype(dtype_of(counts)))
    graph.lists_rows(objects)


def _surest(graph: GraphWriter, found: str, scores: str, images: str, keep: int) -> str:
    """Of the rows of NonMaxSuppression the `keep` surest of each image, in the same order."""
    node = graph.node
    order = node("TopK", [scores, node("Shape", [scores])], 2, axis=0) + "_1"  # (M,)
    members = _members(graph, node("Gather", [found, order]), images)
    ranks = node("CumSum", [members, graph.weight(np.int64(0))])
    own = node("ReduceSum", [node("Mul", [ranks, members]), _numbers(graph, 1)], keepdims=0)
    among = node("LessOrEqual", [own, graph.weight(np.int64(keep))])
    rows = node("Compress", [order, among], axis=0)
    rows = node("TopK", [rows, node("Shape", [rows])], 2, axis=0, largest=0)  # ascending
    return node("Gather", [found, rows])


def _members(graph: GraphWriter, found: str, images: str) -> str:
    """(M, N) int64: 1 where a row is of an image."""
    same = graph.node("Equal", [_columns(graph, found, _IMAGE), images])
    return graph.node("Cast", [same], to=TensorProto.INT64)


def _columns(graph: GraphWriter, found: str, *columns: int) -> str:
    return graph.node("Gather", [found, _numbers(graph, *columns)], axis=1)


def _numbers(graph: GraphWriter, *numbers: int) -> str:
    return graph.weight(np.array(numbers, np.int64))


TRANSLATIONS: dict[str, Translation] = {"pd_op.multiclass_nms3": _suppression}
