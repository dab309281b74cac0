"""Values in ONNX: constants, places, arithmetic, comparisons, sums and sorting.

What is known before the network runs (kernels, indices) is computed here and never becomes a node.
Read before: graph.py, operations.py. Read next: shapes.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.graph import (
    GraphWriter,
    Translation,
    dtype_of,
    int64,
    numpy_type,
    required,
    required_numbers,
    simple,
    sources,
)


def _full(graph: GraphWriter, op: Any) -> None:
    attributes, result = op.attrs(), op.results()[0]
    graph.know(result, np.full(attributes["shape"], attributes["value"], dtype_of(result)))


def _assign_value(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    array = np.array(attributes["values"], numpy_type(attributes["dtype"]))
    graph.know(op.results()[0], array.reshape(attributes["shape"]))


def _full_like(graph: GraphWriter, op: Any) -> None:
    source, value = sources(op)
    (number,), result = required(graph, op, value, "value").reshape(-1), op.results()[0]
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


def _gather(graph: GraphWriter, op: Any) -> None:
    source, index, axis = op.operands_source()
    (number,) = required_numbers(graph, op, axis, "axis")
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


def _arg(kind: str) -> Translation:
    def translate(graph: GraphWriter, op: Any) -> None:
        source, axis = op.operands_source()
        attributes, result = op.attrs(), op.results()[0]
        if attributes["flatten"]:
            raise UserError(f"ONNX: {op.name()} over all axes has no translation")
        (number,) = required_numbers(graph, op, axis, "axis")
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
        axes = required_numbers(graph, op, given[0], "axis") if given else list(attributes["axis"])
        if not axes or attributes.get("reduce_all"):
            axes = list(range(rank))
        axes, keep = [axis % rank for axis in axes], int(attributes["keepdim"])
        name = graph.name(source)
        if axes_are_input:
            graph.node(kind, [name, int64(graph, *axes)], op.results(), keepdims=keep)
        else:
            graph.node(kind, [name], op.results(), axes=axes, keepdims=keep)

    return translate


def _topk(graph: GraphWriter, op: Any) -> None:
    source, count = op.operands_source()
    attributes = op.attrs()
    inputs = [graph.name(source), int64(graph, *required_numbers(graph, op, count, "number"))]
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
    "pd_op.full": _full,
    "pd_op.full_int_array": lambda g, op: g.know(op.results()[0], np.array(op.attrs()["value"])),
    "pd_op.full_like": _full_like,
    "pd_op.assign_value_": _assign_value,
    "pd_op.assign_value": _assign_value,
    "pd_op.assign": _same,
    "pd_op.assign_out_": _same,
    "pd_op.cast": _cast,
    "pd_op.gather": _gather,
    "pd_op.index_select": _index_select,
    "pd_op.take_along_axis": _gather_along,
    "pd_op.gather_nd": _gather_nd,
    "pd_op.arange": _range,
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
