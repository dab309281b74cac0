"""A Paddle program's operations in ONNX: one small function each.

Written for the operations of the zoo's networks and of heads on them; others are refused by name.
Batch normalisation is folded into the convolution before it and a bias into its convolution or
matrix product, so that the graph holds what an engine computes. Operators are those of ONNX's
operator sets 14 (HardSwish as one node) to 17: https://onnx.ai/onnx/operators.
Read before: graph.py. Read next: arrays.py (comparisons, sums), shapes.py, enlarging.py,
suppression.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx import arrays, enlarging, shapes, suppression
from ppcls_lite.inference.onnx.graph import GraphWriter, Translation, dtype_of, simple, sources


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


def _transposed_convolution(graph: GraphWriter, op: Any) -> None:
    attributes = _nchw(op)
    if enlarging.resize_of(graph, op):
        return
    source, kernel, *_ = op.operands_source()
    weight = graph.constant(kernel)
    if weight is None or attributes["padding_algorithm"] == "SAME":
        raise UserError("ONNX: this transposed convolution has no translation")
    graph.node(
        "ConvTranspose",
        [graph.name(source), graph.weight(weight)],
        op.results(),
        kernel_shape=list(weight.shape[2:]),
        strides=list(attributes["strides"]),
        dilations=list(attributes["dilations"]),
        output_padding=list(attributes["output_padding"]) or [0, 0],
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
    if enlarging.resize_of(graph, op):
        return
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
    flags = {"transA": attributes["transpose_x"], "transB": attributes["transpose_y"]}
    inputs = [graph.name(left), graph.name(right)]
    if len(left.shape) != 2 or len(right.shape) != 2:
        for number, value in enumerate((left, right)):
            if [*flags.values()][number] and len(value.shape) > 1:
                *front, last = range(len(value.shape))
                order = [*front[:-1], last, front[-1]]
                inputs[number] = graph.node("Transpose", [inputs[number]], perm=order)
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


def _scale(graph: GraphWriter, op: Any) -> None:
    attributes = op.attrs()
    source, factor = op.operands_source()
    known = graph.constant(factor)
    if known is None or math.isnan(attributes["bias"]):
        raise UserError("ONNX: scaling by a computed value has no translation")
    multiplier, term = float(known.reshape(-1)[0]), attributes["bias"]
    if not attributes["bias_after_scale"]:
        term *= multiplier
    kind = dtype_of(op.results()[0])
    factor, added = (graph.weight(np.array(number, kind)) for number in (multiplier, term))
    name = graph.node("Mul", [graph.name(source), factor])
    graph.node("Add", [name, added], op.results())


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


def _pixel_shuffle(graph: GraphWriter, op: Any) -> None:
    factor = _nchw(op)["upscale_factor"]
    inputs = [graph.name(op.operands_source()[0])]
    graph.node("DepthToSpace", inputs, op.results(), blocksize=factor, mode="CRD")


def _leaky_relu(graph: GraphWriter, op: Any) -> None:
    slope = op.attrs()["negative_slope"]
    graph.node("LeakyRelu", [graph.name(op.operands_source()[0])], op.results(), alpha=slope)


def _softplus(graph: GraphWriter, op: Any) -> None:
    """log(1 + exp(beta x)) / beta; Paddle's threshold only spares it an overflow."""
    beta, name = op.attrs()["beta"], graph.name(op.operands_source()[0])
    if beta == 1:
        graph.node("Softplus", [name], op.results())
        return
    factor = graph.weight(np.float32(beta).reshape(()))
    soft = graph.node("Softplus", [graph.node("Mul", [name, factor])])
    graph.node("Div", [soft, factor], op.results())


TRANSLATIONS: dict[str, Translation] = {
    **arrays.TRANSLATIONS,
    **shapes.TRANSLATIONS,
    **enlarging.TRANSLATIONS,
    **suppression.TRANSLATIONS,
    "builtin.parameter": GraphWriter.parameter,
    "builtin.shadow_output": GraphWriter.output,
    "pd_op.data": GraphWriter.input,
    "pd_op.fetch": GraphWriter.output,
    "pd_op.conv2d": _convolution,
    "pd_op.depthwise_conv2d": _convolution,
    "pd_op.conv2d_transpose": _transposed_convolution,
    "pd_op.depthwise_conv2d_transpose": _transposed_convolution,
    "pd_op.batch_norm_": _batch_norm,
    "pd_op.batch_norm": _batch_norm,
    "pd_op.add": _add,
    "pd_op.scale": _scale,
    "pd_op.matmul": _matmul,
    "pd_op.pool2d": _pool,
    "pd_op.channel_shuffle": _channel_shuffle,
    "pd_op.pixel_shuffle": _pixel_shuffle,
    "pd_op.dropout": _dropout,
    "pd_op.gelu": _gelu,
    "pd_op.relu": simple("Relu"),
    "pd_op.relu6": _relu6,
    "pd_op.leaky_relu": _leaky_relu,
    "pd_op.sigmoid": simple("Sigmoid"),
    "pd_op.swish": _swish,
    "pd_op.silu": _swish,
    "pd_op.hardswish": simple("HardSwish"),
    "pd_op.hardsigmoid": _hard_sigmoid,
    "pd_op.softplus": _softplus,
    "pd_op.softmax": lambda g, op: simple("Softmax", axis=op.attrs()["axis"])(g, op),
    "pd_op.log_softmax": lambda g, op: simple("LogSoftmax", axis=op.attrs()["axis"])(g, op),
}
