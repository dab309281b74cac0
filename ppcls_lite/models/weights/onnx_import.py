"""Back from a deployed network in ONNX to weights that can be fine-tuned.

The layers are matched by order, as in networks that are one chain: the n-th Conv or Gemm/MatMul of
the graph fills the n-th convolution or linear layer of the network. Batch normalisation that was
folded into a convolution comes back as identity statistics (mean 0, variance 1 - epsilon, scale 1)
with the folded bias as its shift. The result is run against the graph before it is returned.
Needs the `onnx` package. Read next: convert.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import apply_state
from ppcls_lite.system.installed import require

_SAME_VALUES = ("Identity", "Reshape", "Unsqueeze", "Squeeze")  # the shape of a bias is no matter
_NORMS = {"conv": "bn", "_conv": "_batch_norm"}  # what lies beside a convolution in our families
_TOLERANCE = 1e-3  # of the largest output; folding and other kernels stay below 1e-5


@dataclass
class _Layer:
    """One layer of the graph: `weight` as stored there, `norm` the four arrays and epsilon."""

    weight: np.ndarray
    bias: np.ndarray | None
    norm: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float] | None


def read_onnx(
    path: str | Path, arch: str, arguments: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The state dict of `arch` (a name of the zoo) from an ONNX file of that network.

    The class count is the file's; `arguments` are others of the network, as in `Arch`. Raises
    `UserError` when the file is not such a network (number, order or shapes of its layers), or when
    the network filled with these weights does not compute what the graph computes.
    """
    graph_model = _load(Path(path))
    found = list(_Graph(graph_model.graph).layers())
    if not found or found[-1].weight.ndim != 2:
        raise UserError(f"{path} does not end in a linear classifier, so it is no {arch}")
    model = create_model(arch, class_num=found[-1].weight.shape[1], **(arguments or {}))
    model.eval()
    state = _match(model, found, f"{path}", arch)
    apply_state(model, state, str(path))
    difference = _difference(model, graph_model)
    if difference > _TOLERANCE:
        raise UserError(
            f"{path}: with these weights {arch} differs from the graph by {difference:.1e} of the "
            "largest output; the graph is another network, or was changed after its export"
        )
    return state


def _load(path: Path) -> Any:
    require("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return onnx.load(str(path))
    except (DecodeError, ValueError, OSError) as error:
        raise UserError(f"{path} could not be read as ONNX: {error}") from None


class _Graph:
    """An ONNX graph as a chain of layers with constant weights."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._nodes = list(graph.node)
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._users: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type in _SAME_VALUES and node.input[0] in self._constants:
                self._constants[node.output[0]] = self._constants[node.input[0]]

    def layers(self) -> Iterator[_Layer]:
        """Conv, Gemm and MatMul nodes with constant weights, in order of execution."""
        for node in self._nodes:
            if node.op_type not in ("Conv", "Gemm", "MatMul"):
                continue
            weight = self._constants.get(node.input[1])
            if weight is None:
                continue
            if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
                weight = weight.T
            channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1]
            bias = self._constants.get(node.input[2]) if len(node.input) > 2 else None
            user = self._next(node)
            if user is not None and user.op_type == "Add" and bias is None:
                sides = [self._constants.get(name) for name in user.input]
                added = next((s for s in sides if s is not None and s.size == channels), None)
                if added is not None:
                    bias, user = added.reshape(-1), self._next(user)
            norm = None
            if user is not None and user.op_type == "BatchNormalization":
                epsilon = next((a.f for a in user.attribute if a.name == "epsilon"), 1e-5)
                norm = (*(self._constants[name] for name in user.input[1:5]), epsilon)
            yield _Layer(weight, bias, norm)

    def _next(self, node: Any) -> Any:
        """The node that alone uses the output of `node`; identities do not count."""
        users = self._users.get(node.output[0], [])
        while len(users) == 1 and users[0].op_type == "Identity":
            users = self._users.get(users[0].output[0], [])
        return users[0] if len(users) == 1 else None


def _match(model: nn.Layer, found: list[_Layer], source: str, arch: str) -> dict[str, np.ndarray]:
    modules = dict(model.named_sublayers())
    layers = {k: v for k, v in modules.items() if isinstance(v, nn.Conv2D | nn.Linear)}
    if len(found) != len(layers):
        raise UserError(
            f"{source} has {len(found)} convolutions and linear layers, {arch} has {len(layers)}"
        )
    state: dict[str, np.ndarray] = {}
    for (name, layer), got in zip(layers.items(), found):
        if list(got.weight.shape) != list(layer.weight.shape):
            raise UserError(
                f"{source}: the layer in the place of {name} has the shape "
                f"{list(got.weight.shape)}, {arch} has {list(layer.weight.shape)} there"
            )
        state[f"{name}.weight"] = got.weight
        channels = layer.weight.shape[1 if isinstance(layer, nn.Linear) else 0]
        bias = np.zeros(channels, np.float32) if got.bias is None else got.bias
        place, _, kind = name.rpartition(".")
        norm_name = f"{place}.{_NORMS.get(kind)}"
        norm = modules.get(norm_name)
        if norm is not None:
            state |= _norm_state(norm_name, norm._epsilon, bias, got)
        elif layer.bias is not None:
            state[f"{name}.bias"] = bias
        elif bias.any():
            raise UserError(f"{source}: the layer in the place of {name} has a bias, {arch} none")
    return {key: np.ascontiguousarray(value, np.float32) for key, value in state.items()}


def _norm_state(name: str, epsilon: float, bias: np.ndarray, got: _Layer) -> dict[str, np.ndarray]:
    """Batch-norm arrays: the graph's own, or the identity where it was folded."""
    ones = np.ones_like(bias)
    scale, shift, mean, variance = ones, bias, 0 * ones, ones - epsilon
    if got.norm is not None:
        scale, shift, mean, variance, graph_epsilon = got.norm
        mean, variance = mean - bias, variance + (graph_epsilon - epsilon)
    keys = (f"{name}.{key}" for key in ("weight", "bias", "_mean", "_variance"))
    return dict(zip(keys, (scale, shift, mean, variance)))


def _difference(model: nn.Layer, graph_model: Any) -> float:
    """Largest difference between network and graph on random input, relative to the output."""
    from onnx.reference import ReferenceEvaluator

    source = graph_model.graph.input[0]
    dims = [d.dim_value for d in source.type.tensor_type.shape.dim]
    shape = [size or default for size, default in zip(dims, (1, 3, 224, 224))]
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    # Up to opset 13 the evaluator blends batch statistics in; momentum 1 keeps the stored ones.
    for node in graph_model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "BatchNormalization" and attribute.name == "momentum":
                attribute.f = 1.0
    expected = ReferenceEvaluator(graph_model).run(None, {source.name: image})[0]
    with paddle.no_grad():
        logits = model(paddle.to_tensor(image))
    if np.allclose(expected.sum(axis=1), 1, atol=1e-4) and (expected >= 0).all():
        logits = nn.functional.softmax(logits)  # the graph ends in a softmax
    return float(np.abs(logits.numpy() - expected).max() / np.abs(expected).max())
