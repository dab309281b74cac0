"""Operations on arrays in ONNX: shapes and places, arithmetic, comparisons, sums and sorting.

What is known before the network runs (shapes, kernels, indices) is computed here and never becomes
a node. Read before: graph.py, operations.py.
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
    numpy_type,
    simple,
    sources,
)

_END = 2**31 - 1  # Paddle's and ONNX's "as far as it goes"


def _required(graph: GraphWriter, op: Any, value: Any, what: str) -> np.ndarray:
    known = graph.constant(value)
    if known is None:
        raise UserError(f"ONNX: {op.name()} with a computed {what} has no translation")
    return known


def _numbers(graph: GraphWriter, op: Any, value: Any, what: str) -> list[int]:
    return [int(number) for number in _required(graph, op, value, what).reshape(-1)]


def _int64(graph: GraphWriter, *numbers: int) -> str:
    return graph.weight(np.array(numbers, np.int64))


def _full(graph: GraphWriter, op: Any) -> None:
    attributes, result = op.attrs(), op.results()[0]
    graph.know(result, np.full(attributes["shape"], attributes["value"], dtype_of(result)))


def _assign_value(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    array = np.array(attributes["values"], numpy_type(attributes["dtype"]))
    graph.know(op.results()[0], array.reshape(attributes["shape"]))


def _full_like(graph: GraphWriter, op: Any) -> None:
    source, value = sources(op)
    (number,), result = _required(graph, op, value, "value").reshape(-1), op.results()[0]
    if -1 not in source.shape:
        graph.know(result, np.full(source.shape, number, dtype_of(result)))
        return
    number = graph.weight(np.array(number, dtype_of(result)))
    graph.node("Expand", [number, graph.node("Shape", [graph.name(source)])], [result])


def _same(graph: GraphWriter, op: Any) -> None:
    source, result = op.operands_source()[0], op.results()[0]
    known = graph.constant(source)
    if known is None:
        graph.rename(source, result)
    else:
        graph.know(result, known)


def _cast(graph: GraphWriter, op: Any) -> None:
    (source,), result = op.operands_source(), op.results()[0]
    known, kind = graph.constant(source), dtype_of(result)
    if known is not None:
        graph.know(result, known.astype(kind))
        return
    from onnx import helper

    to = helper.np_dtype_to_tensor_dtype(kind)
    graph.node("Cast", [graph.name(source)], [result], to=to)


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
    graph.node("Reshape", [graph.name(source), _int64(graph, *shape)], op.results())


def _shape_name(graph: GraphWriter, target: Any) -> str:
    """A shape that is computed, as one tensor; `builtin.combine` has its parts."""
    if target.id not in graph.lists:
        return graph.name(target)
    parts = []
    for value in graph.lists[target.id]:
        known = graph.constant(value)
        if known is not None:
            parts.append(_int64(graph, *known.reshape(-1)))
        else:
            one = graph.node("Cast", [graph.name(value)], to=7)  # int64
            parts.append(graph.node("Reshape", [one, _int64(graph, 1)]))
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
        target = _int64(graph, *front, *rest)
    else:
        ends = _int64(graph, stop + 1), _int64(graph, rank), _int64(graph, 0)
        found = graph.node("Slice", [graph.node("Shape", [name]), *ends])
        target = graph.node("Concat", [_int64(graph, *front), found], axis=0)
    graph.node("Reshape", [name, target], [op.results()[0]])


def _expand(graph: GraphWriter, op: Any) -> None:
    source, target = op.operands_source()
    known = graph.constant(source)
    if graph.constant(target) is None:
        name = _shape_name(graph, target)
    else:
        shape = [max(edge, 1) for edge in _numbers(graph, op, target, "shape")]  # -1: as it is
        if known is not None:
            graph.know(op.results()[0], np.array(np.broadcast_to(known, shape)))
            return
        name = _int64(graph, *shape)
    graph.node("Expand", [graph.name(source), name], op.results())


def _expand_as(graph: GraphWriter, op: Any) -> None:
    source, other = op.operands_source()
    pairs = list(zip(source.shape, other.shape)) if len(source.shape) == len(other.shape) else []
    if pairs and all(theirs != -1 or mine == -1 for mine, theirs in pairs):
        target = _int64(graph, *(max(edge, 1) for edge in other.shape))  # free ones stay
    else:
        target = graph.node("Shape", [graph.name(other)])
    graph.node("Expand", [graph.name(source), target], op.results())


def _tile(graph: GraphWriter, op: Any) -> None:
    source, times = op.operands_source()
    numbers = _numbers(graph, op, times, "number")
    name, more = graph.name(source), len(numbers) - len(source.shape)
    if more > 0:
        name = graph.node("Unsqueeze", [name, _int64(graph, *range(more))])
    numbers = [1] * -more + numbers
    graph.node("Tile", [name, _int64(graph, *numbers)], op.results())


def _unsqueeze(graph: GraphWriter, op: Any) -> None:
    source, axes = op.operands_source()
    numbers, known = _numbers(graph, op, axes, "axis"), graph.constant(source)
    rank = len(source.shape)
    places = []  # each counts in what the ones before have made
    for number in numbers:
        place = number % (rank + len(places) + 1)
        places = [p + (p >= place) for p in places] + [place]
    if known is not None:
        graph.know(op.results()[0], np.expand_dims(known, tuple(places)))
        return
    graph.node("Unsqueeze", [graph.name(source), _int64(graph, *sorted(places))], op.results()[:1])


def _squeeze(graph: GraphWriter, op: Any) -> None:
    source, axes = op.operands_source()
    shape, known = source.shape, graph.constant(source)
    numbers = [n % len(shape) for n in _numbers(graph, op, axes, "axis")]
    numbers = [n for n in numbers or range(len(shape)) if shape[n] == 1]
    if known is not None:
        graph.know(op.results()[0], known.squeeze(tuple(numbers)))
        return
    graph.node("Squeeze", [graph.name(source), _int64(graph, *numbers)], op.results()[:1])


def _slice(graph: GraphWriter, op: Any) -> None:
    source, starts, ends = op.operands_source()
    attributes = op.attrs()
    axes = list(attributes["axes"])
    name = graph.name(source)
    limits = [_limits(graph, limit) for limit in (starts, ends)]
    dropped = list(attributes["decrease_axis"])
    cut = [name, *limits, _int64(graph, *axes)]
    if not dropped:
        graph.node("Slice", cut, op.results())
        return
    graph.node("Squeeze", [graph.node("Slice", cut), _int64(graph, *dropped)], op.results())


def _limits(graph: GraphWriter, limit: Any) -> str:
    known = graph.constant(limit)
    if known is None:
        return _shape_name(graph, limit)
    return _int64(graph, *known.reshape(-1))


def _strided_slice(graph: GraphWriter, op: Any) -> None:
    source, *limits = op.operands_source()
    starts, ends, steps = (_limits(graph, limit) for limit in limits)
    axes = _int64(graph, *op.attrs()["axes"])
    graph.node("Slice", [graph.name(source), starts, ends, axes, steps], op.results())


def _concat(graph: GraphWriter, op: Any) -> None:
    values, axis = op.operands_source()
    names = [graph.name(value) for value in graph.lists[values.id]]
    graph.node("Concat", names, op.results(), axis=_numbers(graph, op, axis, "axis")[0])


def _stack(graph: GraphWriter, op: Any) -> None:
    (values,) = op.operands_source()
    axis = op.attrs()["axis"] % len(op.results()[0].shape)
    place = _int64(graph, axis)
    names = [
        graph.node("Unsqueeze", [graph.name(value), place]) for value in graph.lists[values.id]
    ]
    graph.node("Concat", names, op.results(), axis=axis)


def _split(graph: GraphWriter, op: Any) -> None:
    """`builtin.split` names the parts later: the node is written with values of our own."""
    source, *rest = op.operands_source()
    number = _numbers(graph, op, rest[-1], "axis")[0]
    size = source.shape[number]
    if len(rest) == 1:
        count = op.attrs()["num"]
        sizes = [size // count] * count
    else:
        sizes = _numbers(graph, op, rest[0], "size")
        if -1 in sizes:
            sizes[sizes.index(-1)] = size - sum(sizes) - 1
    inputs = [graph.name(source), _int64(graph, *sizes)]
    first = graph.node("Split", inputs, len(sizes), axis=number)
    names = [first, *(f"{first}_{index}" for index in range(1, len(sizes)))]
    graph.lists[op.results()[0].id] = names


def _unpack(graph: GraphWriter, op: Any) -> None:
    for value, name in zip(op.results(), graph.lists[op.operands_source()[0].id], strict=True):
        graph.set_name(value, name)


def _gather(graph: GraphWriter, op: Any) -> None:
    source, index, axis = op.operands_source()
    (number,) = _numbers(graph, op, axis, "axis")
    graph.node("Gather", [graph.name(source), graph.name(index)], op.results(), axis=number)


def _index_select(graph: GraphWriter, op: Any) -> None:
    simple("Gather", axis=op.attrs()["axis"])(graph, op)


def _gather_along(graph: GraphWriter, op: Any) -> None:
    simple("GatherElements", axis=op.attrs()["axis"])(graph, op)


def _gather_nd(graph: GraphWriter, op: Any) -> None:
    source, index = op.operands_source()
    wide = graph.node("Cast", [graph.name(index)], to=7)  # int64
    graph.node("GatherND", [graph.name(source), wide], op.results())


def _range(graph: GraphWriter, op: Any) -> None:
    kind, limits = dtype_of(op.results()[0]), op.operands_source()
    known = [graph.constant(limit) for limit in limits]
    if all(limit is not None for limit in known):
        graph.know(op.results()[0], np.arange(*(n.reshape(-1)[0] for n in known), dtype=kind))
        return
    from onnx import helper

    to, names = helper.np_dtype_to_tensor_dtype(kind), []
    for value, number in zip(limits, known, strict=True):
        if number is not None:
            names.append(graph.weight(np.array(number.reshape(-1)[0], kind)))
        else:
            cast = graph.node("Cast", [graph.name(value)], to=to)
            names.append(graph.node("Reshape", [cast, graph.weight(np.zeros(0, np.int64))]))
    graph.node("Range", names, op.results())


def _pad3d(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    source, sizes = op.operands_source()
    mode = {"replicate": "edge", "constant": "constant", "reflect": "reflect"}.get(
        attributes["mode"]
    )
    if attributes["data_format"] != "NCDHW" or mode is None:
        raise UserError(f"ONNX: pad3d of the mode {attributes['mode']} has no translation")
    left, right, top, bottom, front, back = _numbers(graph, op, sizes, "size")
    pads = _int64(graph, 0, 0, front, top, left, 0, 0, back, bottom, right)
    value = graph.weight(np.float32(attributes["pad_value"]).reshape(()))
    graph.node("Pad", [graph.name(source), pads, value], op.results(), mode=mode)


def _pad(graph: GraphWriter, op: Any) -> None:
    source, *value = op.operands_source()
    pads = list(op.attrs()["paddings"])  # before and after, axis by axis
    fill = _required(graph, op, value[0], "value").reshape(()).astype(dtype_of(source))
    inputs = [graph.name(source), _int64(graph, *pads[::2], *pads[1::2]), graph.weight(fill)]
    graph.node("Pad", inputs, op.results(), mode="constant")


def _arg(kind: str) -> Translation:
    def translate(graph: GraphWriter, op: Any) -> None:
        source, axis = op.operands_source()
        attributes, result = op.attrs(), op.results()[0]
        if attributes["flatten"]:
            raise UserError(f"ONNX: {op.name()} over all axes has no translation")
        (number,) = _numbers(graph, op, axis, "axis")
        keep = {"axis": number % len(source.shape), "keepdims": int(attributes["keepdims"])}
        if dtype_of(result) == np.int64:
            graph.node(kind, [graph.name(source)], [result], **keep)
            return
        found = graph.node(kind, [graph.name(source)], **keep)
        graph.node("Cast", [found], [result], to=6)  # int32

    return translate


def _reduce(kind: str, axes_are_input: bool = False) -> Translation:
    def translate(graph: GraphWriter, op: Any) -> None:
        source, *given = sources(op)
        attributes, rank = op.attrs(), len(source.shape)
        axes = _numbers(graph, op, given[0], "axis") if given else list(attributes["axis"])
        if not axes or attributes.get("reduce_all"):
            axes = list(range(rank))
        axes, keep = [axis % rank for axis in axes], int(attributes["keepdim"])
        name = graph.name(source)
        if axes_are_input:
            graph.node(kind, [name, _int64(graph, *axes)], op.results(), keepdims=keep)
        else:
            graph.node(kind, [name], op.results(), axes=axes, keepdims=keep)

    return translate


def _topk(graph: GraphWriter, op: Any) -> None:
    source, count = op.operands_source()
    attributes = op.attrs()
    inputs = [graph.name(source), _int64(graph, *_numbers(graph, op, count, "number"))]
    graph.node(
        *("TopK", inputs, op.results()),
        axis=attributes["axis"],
        largest=int(attributes["largest"]),
        sorted=int(attributes["sorted"]),
    )


def _clip(graph: GraphWriter, op: Any) -> None:
    source, *ends = op.operands_source()
    names = []
    for end in ends:
        known = graph.constant(end)
        if known is not None:
            names.append(graph.weight(known.reshape(()).astype(dtype_of(source))))
        else:
            empty = graph.weight(np.zeros(0, np.int64))
            names.append(graph.node("Reshape", [graph.name(end), empty]))
    graph.node("Clip", [graph.name(source), *names], op.results())


def _power(graph: GraphWriter, op: Any) -> None:
    (source,) = op.operands_source()
    exponent = graph.weight(np.array(op.attrs()["y"], dtype_of(source)))
    graph.node("Pow", [graph.name(source), exponent], op.results())


def _square(graph: GraphWriter, op: Any) -> None:
    name = graph.name(op.operands_source()[0])
    graph.node("Mul", [name, name], op.results())


def _inverse_root(graph: GraphWriter, op: Any) -> None:
    root = graph.node("Sqrt", [graph.name(op.operands_source()[0])])
    graph.node("Reciprocal", [root], op.results())


def _logical(kind: str) -> Translation:
    def translate(graph: GraphWriter, op: Any) -> None:
        if dtype_of(op.results()[0]) != np.bool_:
            raise UserError(f"ONNX: {op.name()} of numbers has no translation")
        simple(kind)(graph, op)

    return translate


def _not_equal(graph: GraphWriter, op: Any) -> None:
    same = graph.node("Equal", [graph.name(v) for v in op.operands_source()])
    graph.node("Not", [same], op.results())


TRANSLATIONS: dict[str, Translation] = {
    "builtin.combine": lambda g, op: g.lists.update({op.results()[0].id: op.operands_source()}),
    "builtin.split": _unpack,
    "pd_op.full": _full,
    "pd_op.full_int_array": lambda g, op: g.know(op.results()[0], np.array(op.attrs()["value"])),
    "pd_op.full_like": _full_like,
    "pd_op.assign_value_": _assign_value,
    "pd_op.assign_value": _assign_value,
    "pd_op.assign": _same,
    "pd_op.assign_out_": _same,
    "pd_op.cast": _cast,
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
    "pd_op.gather": _gather,
    "pd_op.index_select": _index_select,
    "pd_op.take_along_axis": _gather_along,
    "pd_op.gather_nd": _gather_nd,
    "pd_op.arange": _range,
    "pd_op.pad3d": _pad3d,
    "pd_op.pad": _pad,
    "pd_op.argmax": _arg("ArgMax"),
    "pd_op.argmin": _arg("ArgMin"),
    "pd_op.mean": _reduce("ReduceMean"),
    "pd_op.sum": _reduce("ReduceSum", axes_are_input=True),
    "pd_op.max": _reduce("ReduceMax"),
    "pd_op.min": _reduce("ReduceMin"),
    "pd_op.prod": _reduce("ReduceProd"),
    "pd_op.topk": _topk,
    "pd_op.multiply": simple("Mul"),
    "pd_op.subtract": simple("Sub"),
    "pd_op.divide": simple("Div"),
    "pd_op.maximum": simple("Max"),
    "pd_op.minimum": simple("Min"),
    "pd_op.elementwise_pow": simple("Pow"),
    "pd_op.pow": _power,
    "pd_op.square": _square,
    "pd_op.sqrt": simple("Sqrt"),
    "pd_op.rsqrt": _inverse_root,
    "pd_op.exp": simple("Exp"),
    "pd_op.log": simple("Log"),
    "pd_op.abs": simple("Abs"),
    "pd_op.floor": simple("Floor"),
    "pd_op.ceil": simple("Ceil"),
    "pd_op.round": simple("Round"),
    "pd_op.tanh": simple("Tanh"),
    "pd_op.clip": _clip,
    "pd_op.greater_than": simple("Greater"),
    "pd_op.greater_equal": simple("GreaterOrEqual"),
    "pd_op.less_than": simple("Less"),
    "pd_op.less_equal": simple("LessOrEqual"),
    "pd_op.equal": simple("Equal"),
    "pd_op.not_equal": _not_equal,
    "pd_op.logical_and": _logical("And"),
    "pd_op.logical_or": _logical("Or"),
    "pd_op.logical_not": _logical("Not"),
    "pd_op.bitwise_and": _logical("And"),
    "pd_op.bitwise_or": _logical("Or"),
    "pd_op.bitwise_not": _logical("Not"),
    "pd_op.where": simple("Where"),
}
