"""Resize in ONNX: of Paddle's interpolations, and of what stands for them in a program.

An exported program enlarges maps by transposed convolutions or by mixtures of neighbours
(ppcls_lite/models/upsample.py), which every Paddle can run. OpenVINO and ONNX Runtime are fast at
Resize, so these forms are found again and written as such. What is not exactly one of them stays
what it is. Read before: graph.py, operations.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.graph import GraphWriter, Translation, sources
from ppcls_lite.ops.interpolation import linear_kernel, linear_neighbours

_LINEAR = "half_pixel"
_CORNERS = "align_corners"


def resize_of(graph: GraphWriter, op: Any) -> bool:
    """Write Resize for an operation that is the last one of an enlargement; False: it is none."""
    ways = {"add": _by_neighbours, "flatten": _by_copies}
    return ways.get(_kind(op), _by_kernels)(graph, op)


def _by_kernels(graph: GraphWriter, op: Any) -> bool:
    """The second of two transposed convolutions, along the width, of a map with a border."""
    chain = _chain(op, "depthwise_conv2d_transpose", "squeeze", "pad3d", "unsqueeze")
    chain = chain or _chain(op, "conv2d_transpose", "squeeze", "pad3d", "unsqueeze")
    if chain is None:
        return False
    first, _, pad, start = chain
    factors = [_factor(graph, step, axis) for step, axis in ((first, 2), (op, 3))]
    border = graph.constant(pad.operands_source()[1])
    if None in factors or pad.attrs()["mode"] != "replicate" or border is None:
        return False
    if border.tolist() != [1, 1, 1, 1, 0, 0]:
        return False
    source = start.operands_source()[0]
    scales = graph.weight(np.array([1, 1, *factors], np.float32))
    _resize(graph, op.results()[0], [graph.name(source), "", scales], "linear", _LINEAR)
    return True


def _factor(graph: GraphWriter, op: Any, axis: int) -> int | None:
    """How many times a transposed convolution enlarges by linear interpolation, if it does."""
    attributes = op.attrs()
    weight = graph.constant(op.operands_source()[1])
    factor = attributes["strides"][axis - 2]
    kernel = linear_kernel(factor)
    shape, stride, padding = [1, 1], [1, 1], [0, 0]
    shape[axis - 2], stride[axis - 2], padding[axis - 2] = len(kernel), factor, (3 * factor) // 2
    plain = (
        weight is not None
        and weight.shape == (attributes["groups"], 1, *shape)
        and list(attributes["strides"]) == stride
        and list(attributes["paddings"]) == padding
        and list(attributes["dilations"]) == [1, 1]
        and not any(attributes["output_padding"])
    )
    return factor if plain and (weight == kernel.reshape(1, 1, *shape)).all() else None


def _by_copies(graph: GraphWriter, op: Any) -> bool:
    """Each pixel four times: (N, C, H, 1, W, 1) expanded and put together again."""
    chain = _chain(op, "flatten", "expand", "unsqueeze")
    if chain is None:
        return False
    inner, expanded, start = chain
    axes = [(step.attrs()["start_axis"], step.attrs()["stop_axis"]) for step in (inner, op)]
    places, shape = (graph.constant(step.operands_source()[1]) for step in (start, expanded))
    if axes != [(4, 5), (2, 3)] or places is None or shape is None:
        return False
    if places.tolist() != [3, 5] or shape.tolist() != [-1, -1, -1, 2, -1, 2]:
        return False
    name = graph.name(start.operands_source()[0])
    inputs = [name, "", graph.weight(np.array([1, 1, 2, 2], np.float32))]
    _resize(graph, op.results()[0], inputs, "nearest", "asymmetric", nearest_mode="floor")
    return True


def _by_neighbours(graph: GraphWriter, op: Any) -> bool:
    """first + (second - first) * share, of pixels gathered along one axis."""
    first, product = (_maker(value) for value in op.operands_source())
    if _kind(first) != "gather" or _kind(product) != "multiply":
        return False
    difference, shares = (_maker(value) for value in product.operands_source())
    if _kind(difference) != "subtract" or _kind(shares) != "reshape":
        return False
    second, again = (_maker(value) for value in difference.operands_source())
    if _kind(second) != "gather" or again is None or again.results()[0].id != first.results()[0].id:
        return False
    source, low, axis = first.operands_source()
    other, high, _ = second.operands_source()
    (number,) = graph.constant(axis).reshape(-1)
    if source.id != other.id:
        return False
    share = shares.operands_source()[0]
    known = [graph.constant(value) for value in (low, high, share)]
    if all(array is not None for array in known):
        size, large = source.shape[number], len(known[0])
        ways = {_LINEAR: False, _CORNERS: True}
        same = [
            way
            for way, corners in ways.items()
            if size > 0 and _equal(known, linear_neighbours(size, large, corners))
        ]
        length = graph.weight(np.array([large], np.int64))
    else:
        found, same = _length(low)
        if same:
            one = graph.weight(np.array([1], np.int64))
            length = graph.node("Reshape", [graph.name(found), one])
    if not same:
        return False
    sizes = _sizes(graph, source, {int(number): length})
    _resize(graph, op.results()[0], [graph.name(source), "", "", sizes], "linear", same[0])
    return True


def _equal(known: Any, wanted: Any) -> bool:
    return all(a.shape == b.shape and (a == b).all() for a, b in zip(known, wanted))


def _length(low: Any) -> tuple[Any, list[str]]:
    """The length that the indices of lower neighbours are computed for, and how, if they are."""
    cast = _maker(low)
    if _kind(cast) == "cast":
        names = "floor", "clip", "scale", "multiply", "scale", "cast", "arange"
        if chain := _chain(cast, *names):
            _, _, half, _, centre, _, numbers = chain
            if [half.attrs()["bias"], centre.attrs()["bias"]] == [-0.5, 0.5]:
                return numbers.operands_source()[1], [_LINEAR]
        if chain := _chain(cast, "floor", "multiply", "cast", "arange"):
            return chain[-1].operands_source()[1], [_CORNERS]
    return None, []


def _interpolate(graph: GraphWriter, op: Any) -> None:
    """Paddle's own interpolation, as a program of others may hold."""
    attributes, (source, *given) = op.attrs(), sources(op)
    nearest = attributes["interp_method"] == "nearest"
    if given:
        raise UserError(f"ONNX: {op.name()} to a computed size has no translation")
    if attributes["align_corners"]:
        way = _CORNERS
    else:
        way = "asymmetric" if nearest or attributes["align_mode"] == 1 else _LINEAR
    name = graph.name(source)
    if attributes["scale"]:
        scales = graph.weight(np.array([1, 1, *attributes["scale"]], np.float32))
        inputs = [name, "", scales]
    else:
        edges = {2: attributes["out_h"], 3: attributes["out_w"]}
        known = {axis: graph.weight(np.array([edge], np.int64)) for axis, edge in edges.items()}
        inputs = [name, "", "", _sizes(graph, source, known)]
    more = {}
    if nearest:
        more["nearest_mode"] = "round_prefer_ceil" if attributes["align_corners"] else "floor"
    _resize(graph, op.results()[0], inputs, "nearest" if nearest else "linear", way, **more)


def _sizes(graph: GraphWriter, source: Any, lengths: dict[int, str]) -> str:
    """A shape (4,) int64: that of `source` (N, C, H, W) but for the given axes."""
    shape = graph.node("Shape", [graph.name(source)])
    parts = []
    for axis in range(4):
        place = graph.weight(np.array([axis], np.int64))
        parts.append(lengths.get(axis) or graph.node("Gather", [shape, place], axis=0))
    return graph.node("Concat", parts, axis=0)


def _resize(
    graph: GraphWriter, result: Any, inputs: list[str], mode: str, way: str, **more: Any
) -> None:
    graph.node(*("Resize", inputs, [result]), mode=mode, coordinate_transformation_mode=way, **more)


def _chain(op: Any, *names: str) -> list[Any] | None:
    """The operations before `op` along first operands, if they are those of `names`."""
    found = []
    for name in names:
        op = _maker(op.operands_source()[0])
        if _kind(op) != name:
            return None
        found.append(op)
    return found


def _maker(value: Any) -> Any | None:
    return value.get_defining_op() if value.initialized() else None


def _kind(op: Any | None) -> str:
    return "" if op is None else op.name().removeprefix("pd_op.")


TRANSLATIONS: dict[str, Translation] = {
    "pd_op.bilinear_interp": _interpolate,
    "pd_op.nearest_interp": _interpolate,
}
