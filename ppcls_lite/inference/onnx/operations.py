"""A Paddle program's operations in ONNX: one small function each.

Written for the operations of the zoo's networks, which are few; another one is refused by name.
Batch normalisation is folded into the convolution before it and a bias into its convolution or
matrix product, so that the graph holds what an engine computes. Operators are those of ONNX's
operator sets 14 (HardSwish as one node) to 17: https://onnx.ai/onnx/operators.
Read before: graph.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.graph import GraphWriter, Translation, sources


def _simple(kind: str, **attributes: Any) -> Translation:
    def translate(graph: GraphWriter, op: Any) -> None:
        graph.node(kind, [graph.name(v) for v in op.operands_source()], op.results(), **attributes)

    return translate


def _nchw(op: Any) -> dict[str, Any]:
    attributes = op.attrs()
    if attributes.get("data_format", "NCHW") != "NCHW":
        raise UserError(f"ONNX: {op.name()} in the layout {attributes['data_format']}, not NCHW")
    return attributes


def _pads(op: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    algorithm = attributes["padding_algorithm"]
    if algorithm == "SAME":
        return {"auto_pad": "SAME_UPPER"}
    if algorithm == "VALID":
        return {"pads": [0, 0, 0, 0]}
    pads = list(attributes["paddings"])
    if len(pads) == 4:  # Paddle: top, bottom, left, right; ONNX: top, left, bottom, right
        return {"pads": [pads[0], pads[2], pads[1], pads[3]]}
    return {"pads": pads * 2}


def _convolution(graph: GraphWriter, op: Any) -> None:
    attributes = _nchw(op)
    source, kernel = op.operands_source()
    weight = graph.constant(kernel)
    if weight is None:
        raise UserError("ONNX: a convolution whose kernel is computed cannot be exported")
    graph.node(
        "Conv",
        [graph.name(source), graph.weight(weight)],
        op.results(),
        kernel_shape=list(weight.shape[2:]),
        strides=list(attributes["strides"]),
        dilations=list(attributes["dilations"]),
        group=attributes["groups"],
        **_pads(op, attributes),
    )


def _batch_norm(graph: GraphWriter, op: Any) -> None:
    epsilon = _nchw(op)["epsilon"]
    source, *known = op.operands_source()
    mean, variance, scale, shift = (graph.constant(v).astype(np.float64) for v in known)
    scale = scale / np.sqrt(variance + epsilon)
    shift = shift - mean * scale
    made, result = graph.only_user_of(source, "Conv"), op.results()[0]
    if made is not None:
        graph.scale_weight(made, scale, shift)
        graph.rename(source, result)
        return
    shape = (1, -1, *[1] * (len(source.shape) - 2))
    factor, term = (graph.weight(a.reshape(shape).astype(np.float32)) for a in (scale, shift))
    product = graph.node("Mul", [graph.name(source), factor])
    graph.node("Add", [product, term], [result])


def _add(graph: GraphWriter, op: Any) -> None:
    """Add; a known bias goes into the convolution or matrix product before it."""
    left, right = op.operands_source()
    bias, result = graph.constant(right), op.results()[0]
    if bias is not None:
        conv = graph.only_user_of(left, "Conv")
        if conv is not None and bias.ndim == 4 and bias.size == bias.shape[1]:
            graph.scale_weight(conv, np.ones(bias.size, np.float32), bias.reshape(-1))
            graph.rename(left, result)
            return
        gemm = graph.only_user_of(left, "Gemm")
        if gemm is not None and bias.ndim == 1 and len(gemm.input) == 2:
            gemm.input.append(graph.weight(bias))
            graph.rename(left, result)
            return
    graph.node("Add", [graph.name(left), graph.name(right)], [result])


def _matmul(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    left, right = op.operands_source()
    inputs = [graph.name(left), graph.name(right)]
    flags = {"transA": attributes["transpose_x"], "transB": attributes["transpose_y"]}
    if len(left.shape) != 2 or len(right.shape) != 2:
        if any(flags.values()):
            raise UserError(
                "ONNX: a transposed product of more than two dimensions: no translation"
            )
        graph.node("MatMul", inputs, op.results())
        return
    graph.node("Gemm", inputs, op.results(), **{k: int(v) for k, v in flags.items()})


def _pool(graph: GraphWriter, op: Any) -> None:
    attributes = _nchw(op)
    source, size = op.operands_source()
    kernel = [int(edge) for edge in graph.constant(size)]
    average = attributes["pooling_type"] == "avg"
    kind, inputs = "AveragePool" if average else "MaxPool", [graph.name(source)]
    if attributes["adaptive"] or attributes["global_pooling"]:
        if attributes["adaptive"] and kernel != [1, 1]:
            raise UserError(f"ONNX: adaptive pooling to {kernel} has no translation, only to 1")
        graph.node(f"Global{kind}", inputs, op.results())
        return
    more = {"count_include_pad": int(not attributes["exclusive"])} if average else {}
    graph.node(
        kind,
        inputs,
        op.results(),
        kernel_shape=kernel,
        strides=list(attributes["strides"]),
        ceil_mode=int(attributes["ceil_mode"]),
        **_pads(op, attributes),
        **more,
    )


def _reshape(graph: GraphWriter, op: Any) -> None:
    source, target = op.operands_source()
    shape, known = graph.constant(target), graph.constant(source)
    if shape is None:
        raise UserError("ONNX: reshaping to a computed shape has no translation")
    if known is not None:  # a bias made four-dimensional
        graph.know(op.results()[0], known.reshape([int(edge) for edge in shape]))
        return
    inputs = [graph.name(source), graph.weight(np.array(shape, np.int64))]
    graph.node("Reshape", inputs, op.results())


def _flatten(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    (source,) = op.operands_source()
    rank = len(source.shape)
    start, stop = attributes["start_axis"] % rank, attributes["stop_axis"] % rank
    shape = [0] * start + [-1] + list(source.shape[stop + 1 :])
    if -1 in shape[start + 1 :]:
        raise UserError(f"ONNX: flatten from {start} to {stop} of {source.shape}: no translation")
    inputs = [graph.name(source), graph.weight(np.array(shape, np.int64))]
    graph.node("Reshape", inputs, [op.results()[0]])


def _channel_shuffle(graph: GraphWriter, op: Any) -> None:
    groups = _nchw(op)["groups"]
    (source,) = op.operands_source()
    channels, height, width = source.shape[1:]
    name = graph.name(source)
    split = graph.weight(np.array([0, groups, channels // groups, -1], np.int64))
    split = graph.node("Reshape", [name, split])  # (N, groups, C / groups, H * W)
    turned = graph.node("Transpose", [split], perm=[0, 2, 1, 3])
    if -1 in (height, width):
        back = graph.node("Shape", [name])
    else:
        back = graph.weight(np.array([0, channels, height, width], np.int64))
    graph.node("Reshape", [turned, back], op.results())  # (N, C, H, W)


def _dropout(graph: GraphWriter, op: Any) -> None:
    """Nothing at inference, or, in Paddle's other mode, a factor."""
    attributes = op.attrs()
    source, *known = sources(op)
    result = op.results()[0]
    if not attributes["is_test"]:
        raise UserError("ONNX: the program was saved in training mode; export it in eval mode")
    if attributes["mode"] == "upscale_in_train":
        graph.rename(source, result)
        return
    rate = next(graph.constant(v) for v in reversed(known) if graph.constant(v) is not None)
    keep = graph.weight(np.array(1 - float(rate.reshape(-1)[0]), np.float32))
    graph.node("Mul", [graph.name(source), keep], [result])


def _full(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    graph.know(op.results()[0], np.full(attributes["shape"], attributes["value"]))


def _mean(graph: GraphWriter, op: Any) -> None:
    source, axis = op.operands_source()
    axes = [int(number) % len(source.shape) for number in graph.constant(axis).reshape(-1)]
    keep = int(op.attrs()["keepdim"])
    graph.node("ReduceMean", [graph.name(source)], op.results(), axes=axes, keepdims=keep)


def _scale(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    source, factor = op.operands_source()
    known = graph.constant(factor)
    if known is None or math.isnan(attributes["bias"]):
        raise UserError("ONNX: scaling by a computed value has no translation")
    multiplier, term = float(known.reshape(-1)[0]), attributes["bias"]
    if not attributes["bias_after_scale"]:
        term *= multiplier
    name = graph.node("Mul", [graph.name(source), graph.weight(np.float32(multiplier).reshape(()))])
    graph.node("Add", [name, graph.weight(np.float32(term).reshape(()))], op.results())


def _swish(graph: GraphWriter, op: Any) -> None:
    name = graph.name(op.operands_source()[0])
    graph.node("Mul", [name, graph.node("Sigmoid", [name])], op.results())


def _hard_sigmoid(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    (source,) = op.operands_source()
    numbers = {"alpha": attributes["slope"], "beta": attributes["offset"]}
    graph.node("HardSigmoid", [graph.name(source)], op.results(), **numbers)


def _gelu(graph: GraphWriter, op: Any) -> None:
    """x / 2 * (1 + erf(x / sqrt 2)): ONNX has one node for it from operator set 20 on."""
    if op.attrs()["approximate"]:
        raise UserError("ONNX: the approximate GELU has no translation")
    name = graph.name(op.operands_source()[0])
    root, one, half = (graph.weight(np.float32(v).reshape(())) for v in (math.sqrt(2), 1, 0.5))
    error = graph.node("Add", [graph.node("Erf", [graph.node("Div", [name, root])]), one])
    graph.node("Mul", [graph.node("Mul", [name, error]), half], op.results())


def _relu6(graph: GraphWriter, op: Any) -> None:
    ends = [graph.weight(np.float32(end).reshape(())) for end in (0, 6)]
    graph.node("Clip", [graph.name(op.operands_source()[0]), *ends], op.results())


def _concat(graph: GraphWriter, op: Any) -> None:
    values, axis = op.operands_source()
    names = [graph.name(value) for value in graph.lists[values.id]]
    graph.node("Concat", names, op.results(), axis=int(graph.constant(axis).reshape(-1)[0]))


def _split(graph: GraphWriter, op: Any) -> None:
    """`builtin.split` names the parts later: the node is written with values of our own."""
    source, *sections, axis = op.operands_source()
    number = int(graph.constant(axis).reshape(-1)[0])
    if sections:
        sizes = graph.constant(sections[0]).astype(np.int64)
    else:
        count = op.attrs()["num"]
        sizes = np.full(count, source.shape[number] // count, np.int64)
    count = len(sizes)
    first = graph.node("Split", [graph.name(source), graph.weight(sizes)], count, axis=number)
    names = [first, *(f"{first}_{index}" for index in range(1, count))]
    graph.lists[op.results()[0].id] = names


def _transpose(graph: GraphWriter, op: Any) -> None:
    perm = list(op.attrs()["perm"])
    graph.node("Transpose", [graph.name(op.operands_source()[0])], op.results(), perm=perm)


def _strided_slice(graph: GraphWriter, op: Any) -> None:
    source, *known = op.operands_source()
    numbers = [graph.constant(value) for value in known]
    if any(number is None for number in numbers):
        raise UserError("ONNX: a slice with computed ends has no translation")
    starts, ends, steps = (np.array(number, np.int64) for number in numbers)
    axes = np.array(op.attrs()["axes"], np.int64)
    inputs = [graph.weight(array) for array in (starts, ends, axes, steps)]
    graph.node("Slice", [graph.name(source), *inputs], op.results())


def _unpack(graph: GraphWriter, op: Any) -> None:
    for value, name in zip(op.results(), graph.lists[op.operands_source()[0].id], strict=True):
        graph.set_name(value, name)


TRANSLATIONS: dict[str, Translation] = {
    "builtin.parameter": GraphWriter.parameter,
    "builtin.combine": lambda g, op: g.lists.update({op.results()[0].id: op.operands_source()}),
    "builtin.split": _unpack,
    "builtin.shadow_output": GraphWriter.output,
    "pd_op.data": GraphWriter.input,
    "pd_op.fetch": GraphWriter.output,
    "pd_op.full": _full,
    "pd_op.full_int_array": lambda g, op: g.know(op.results()[0], np.array(op.attrs()["value"])),
    "pd_op.conv2d": _convolution,
    "pd_op.depthwise_conv2d": _convolution,
    "pd_op.batch_norm_": _batch_norm,
    "pd_op.batch_norm": _batch_norm,
    "pd_op.add": _add,
    "pd_op.multiply": _simple("Mul"),
    "pd_op.scale": _scale,
    "pd_op.matmul": _matmul,
    "pd_op.pool2d": _pool,
    "pd_op.mean": _mean,
    "pd_op.reshape": _reshape,
    "pd_op.flatten": _flatten,
    "pd_op.concat": _concat,
    "pd_op.split": _split,
    "pd_op.split_with_num": _split,
    "pd_op.strided_slice": _strided_slice,
    "pd_op.transpose": _transpose,
    "pd_op.channel_shuffle": _channel_shuffle,
    "pd_op.dropout": _dropout,
    "pd_op.gelu": _gelu,
    "pd_op.relu": _simple("Relu"),
    "pd_op.relu6": _relu6,
    "pd_op.sigmoid": _simple("Sigmoid"),
    "pd_op.swish": _swish,
    "pd_op.silu": _swish,
    "pd_op.hardswish": _simple("HardSwish"),
    "pd_op.hardsigmoid": _hard_sigmoid,
    "pd_op.softmax": lambda g, op: _simple("Softmax", axis=op.attrs()["axis"])(g, op),
}
