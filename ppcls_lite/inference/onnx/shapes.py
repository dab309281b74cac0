"""Shapes of arrays in ONNX: other ones for the same values, parts, and several put together.

A shape that is known before the network runs never becomes a node. Read before: graph.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx import enlarging
from ppcls_lite.inference.onnx.graph import (
    GraphWriter,
    Translation,
    dtype_of,
    int64,
    required,
    required_numbers,
    simple,
)


def _reshape(graph: GraphWriter, op: Any) -> None:
    source, target = op.operands_source()
    shape, known = graph.constant(target), graph.constant(source)
    if shape is None:
        graph.node("Reshape", [graph.name(source), _shape_name(graph, target)], op.results())
        return
    shape = [int(edge) for edge in shape]
    if known is not None:  # a bias made four-dimensional
        graph.know(op.results()[0], known.reshape(shape))
        return
    graph.node("Reshape", [graph.name(source), int64(graph, *shape)], op.results())


def _shape_name(graph: GraphWriter, target: Any) -> str:
    """A shape that is computed, as one tensor; `builtin.combine` has its parts."""
    if target.id not in graph.lists:
        return graph.name(target)
    parts = []
    for value in graph.lists[target.id]:
        known = graph.constant(value)
        if known is not None:
            parts.append(int64(graph, *known.reshape(-1)))
        else:
            one = graph.node("Cast", [graph.name(value)], to=7)  # int64
            parts.append(graph.node("Reshape", [one, int64(graph, 1)]))
    return graph.node("Concat", parts, axis=0)


def _flatten(graph: GraphWriter, op: Any) -> None:
    if enlarging.resize_of(graph, op):
        return
    attributes = op.attrs()
    (source,) = op.operands_source()
    name, rank = graph.name(source), len(source.shape)
    start, stop = attributes["start_axis"] % rank, attributes["stop_axis"] % rank
    rest = list(source.shape[stop + 1 :])
    front = [0] * start + [-1]  # 0: as it is
    if -1 not in rest:
        target = int64(graph, *front, *rest)
    else:
        ends = int64(graph, stop + 1), int64(graph, rank), int64(graph, 0)
        found = graph.node("Slice", [graph.node("Shape", [name]), *ends])
        target = graph.node("Concat", [int64(graph, *front), found], axis=0)
    graph.node("Reshape", [name, target], [op.results()[0]])


def _expand(graph: GraphWriter, op: Any) -> None:
    source, target = op.operands_source()
    known = graph.constant(source)
    if graph.constant(target) is None:
        name = _shape_name(graph, target)
    else:
        shape = [
            max(edge, 1) for edge in required_numbers(graph, op, target, "shape")
        ]  # -1: as it is
        if known is not None:
            graph.know(op.results()[0], np.array(np.broadcast_to(known, shape)))
            return
        name = int64(graph, *shape)
    graph.node("Expand", [graph.name(source), name], op.results())


def _expand_as(graph: GraphWriter, op: Any) -> None:
    source, other = op.operands_source()
    pairs = list(zip(source.shape, other.shape)) if len(source.shape) == len(other.shape) else []
    if pairs and all(theirs != -1 or mine == -1 for mine, theirs in pairs):
        target = int64(graph, *(max(edge, 1) for edge in other.shape))  # free ones stay
    else:
        target = graph.node("Shape", [graph.name(other)])
    graph.node("Expand", [graph.name(source), target], op.results())


def _tile(graph: GraphWriter, op: Any) -> None:
    source, times = op.operands_source()
    numbers = required_numbers(graph, op, times, "number")
    name, more = graph.name(source), len(numbers) - len(source.shape)
    if more > 0:
        name = graph.node("Unsqueeze", [name, int64(graph, *range(more))])
    numbers = [1] * -more + numbers
    graph.node("Tile", [name, int64(graph, *numbers)], op.results())


def _unsqueeze(graph: GraphWriter, op: Any) -> None:
    source, axes = op.operands_source()
    numbers, known = required_numbers(graph, op, axes, "axis"), graph.constant(source)
    rank = len(source.shape)
    places = []  # each counts in what the ones before have made
    for number in numbers:
        place = number % (rank + len(places) + 1)
        places = [p + (p >= place) for p in places] + [place]
    if known is not None:
        graph.know(op.results()[0], np.expand_dims(known, tuple(places)))
        return
    graph.node("Unsqueeze", [graph.name(source), int64(graph, *sorted(places))], op.results()[:1])


def _squeeze(graph: GraphWriter, op: Any) -> None:
    source, axes = op.operands_source()
    shape, known = source.shape, graph.constant(source)
    numbers = [n % len(shape) for n in required_numbers(graph, op, axes, "axis")]
    numbers = [n for n in numbers or range(len(shape)) if shape[n] == 1]
    if known is not None:
        graph.know(op.results()[0], known.squeeze(tuple(numbers)))
        return
    graph.node("Squeeze", [graph.name(source), int64(graph, *numbers)], op.results()[:1])


def _slice(graph: GraphWriter, op: Any) -> None:
    source, starts, ends = op.operands_source()
    attributes = op.attrs()
    axes = list(attributes["axes"])
    name = graph.name(source)
    limits = [_limits(graph, limit) for limit in (starts, ends)]
    dropped = list(attributes["decrease_axis"])
    cut = [name, *limits, int64(graph, *axes)]
    if not dropped:
        graph.node("Slice", cut, op.results())
        return
    graph.node("Squeeze", [graph.node("Slice", cut), int64(graph, *dropped)], op.results())


def _limits(graph: GraphWriter, limit: Any) -> str:
    known = graph.constant(limit)
    if known is None:
        return _shape_name(graph, limit)
    return int64(graph, *known.reshape(-1))


def _strided_slice(graph: GraphWriter, op: Any) -> None:
    source, *limits = op.operands_source()
    starts, ends, steps = (_limits(graph, limit) for limit in limits)
    axes = int64(graph, *op.attrs()["axes"])
    graph.node("Slice", [graph.name(source), starts, ends, axes, steps], op.results())


def _concat(graph: GraphWriter, op: Any) -> None:
    values, axis = op.operands_source()
    names = [graph.name(value) for value in graph.lists[values.id]]
    graph.node("Concat", names, op.results(), axis=required_numbers(graph, op, axis, "axis")[0])


def _stack(graph: GraphWriter, op: Any) -> None:
    (values,) = op.operands_source()
    axis = op.attrs()["axis"] % len(op.results()[0].shape)
    place = int64(graph, axis)
    names = [
        graph.node("Unsqueeze", [graph.name(value), place]) for value in graph.lists[values.id]
    ]
    graph.node("Concat", names, op.results(), axis=axis)


def _split(graph: GraphWriter, op: Any) -> None:
    """`builtin.split` names the parts later: the node is written with values of our own."""
    source, *rest = op.operands_source()
    number = required_numbers(graph, op, rest[-1], "axis")[0]
    size = source.shape[number]
    if len(rest) == 1:
        count = op.attrs()["num"]
        sizes = [size // count] * count
    else:
        sizes = required_numbers(graph, op, rest[0], "size")
        if -1 in sizes:
            sizes[sizes.index(-1)] = size - sum(sizes) - 1
    inputs = [graph.name(source), int64(graph, *sizes)]
    first = graph.node("Split", inputs, len(sizes), axis=number)
    names = [first, *(f"{first}_{index}" for index in range(1, len(sizes)))]
    graph.lists[op.results()[0].id] = names


def _unpack(graph: GraphWriter, op: Any) -> None:
    for value, name in zip(op.results(), graph.lists[op.operands_source()[0].id], strict=True):
        graph.set_name(value, name)


def _pad3d(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    source, sizes = op.operands_source()
    mode = {"replicate": "edge", "constant": "constant", "reflect": "reflect"}.get(
        attributes["mode"]
    )
    if attributes["data_format"] != "NCDHW" or mode is None:
        raise UserError(f"ONNX: pad3d of the mode {attributes['mode']} has no translation")
    left, right, top, bottom, front, back = required_numbers(graph, op, sizes, "size")
    pads = int64(graph, 0, 0, front, top, left, 0, 0, back, bottom, right)
    value = graph.weight(np.float32(attributes["pad_value"]).reshape(()))
    graph.node("Pad", [graph.name(source), pads, value], op.results(), mode=mode)


def _pad(graph: GraphWriter, op: Any) -> None:
    source, *value = op.operands_source()
    pads = list(op.attrs()["paddings"])  # before and after, axis by axis
    fill = required(graph, op, value[0], "value").reshape(()).astype(dtype_of(source))
    inputs = [graph.name(source), int64(graph, *pads[::2], *pads[1::2]), graph.weight(fill)]
    graph.node("Pad", inputs, op.results(), mode="constant")


TRANSLATIONS: dict[str, Translation] = {
    "builtin.combine": lambda g, op: g.lists.update({op.results()[0].id: op.operands_source()}),
    "builtin.split": _unpack,
    "pd_op.shape": simple("Shape"),
    "pd_op.shape64": simple("Shape"),
    "pd_op.reshape": _reshape,
    "pd_op.flatten": _flatten,
    "pd_op.expand": _expand,
    "pd_op.expand_as": _expand_as,
    "pd_op.tile": _tile,
    "pd_op.unsqueeze": _unsqueeze,
    "pd_op.squeeze": _squeeze,
    "pd_op.transpose": lambda g, op: simple("Transpose", perm=list(op.attrs()["perm"]))(g, op),
    "pd_op.slice": _slice,
    "pd_op.strided_slice": _strided_slice,
    "pd_op.concat": _concat,
    "pd_op.stack": _stack,
    "pd_op.split": _split,
    "pd_op.split_with_num": _split,
    "pd_op.pad3d": _pad3d,
    "pd_op.pad": _pad,
}
