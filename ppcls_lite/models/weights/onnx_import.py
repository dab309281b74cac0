"""Back from a deployed network in ONNX to weights that can be fine-tuned.

The layers are matched by order, as in networks that are one chain: the n-th Conv or Gemm/MatMul of
the graph fills the n-th convolution or linear layer of the network. Batch normalisation that was
folded into a convolution comes back as identity statistics (mean 0, variance 1 - epsilon, scale 1)
with the folded bias as its shift. Branches that were merged come back as one of them, the others
with a scale of 0. The result is run against the graph before it is returned.
Needs the `onnx` package. Read next: convert.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from ppcls_lite.config import registry
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.network import Network
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
    strides: list[int] = field(default_factory=list)  # of a convolution: [height, width]


class Imported(NamedTuple):
    """Weights, and the arguments that a network takes for them beside its usual ones."""

    state: dict[str, np.ndarray]
    arguments: dict[str, Any]


def read_onnx(path: str | Path, arch: str, arguments: Mapping[str, Any] | None = None) -> Imported:
    """The state dict of `arch` (a name of the zoo) from an ONNX file of that network.

    The class count is the file's; `arguments` are others of the network, as in `Arch`. Strides and
    the head's width, last convolution and dropout are found in the graph where they are not given.
    Raises `UserError` when the file is not such a network (number, order or shapes of its layers),
    or when the network filled with these weights does not compute what the graph computes.
    """
    graph_model = _load(Path(path))
    found = list(_Graph(graph_model.graph).layers())
    if not found or found[-1].weight.ndim != 2:
        raise UserError(f"{path} does not end in a linear classifier, so it is no {arch}")
    network = _Arch(arch, found[-1].weight.shape[1], dict(arguments or {}))
    image, expected = _example(graph_model)
    differences = []
    usual = _seen(network, found)
    for dropout in network.open("dropout_prob", None):
        more = usual | dropout
        model = network.build(more)
        merged = copy.deepcopy(model)
        merged.reparameterize()
        state = _match(merged, found, f"{path}", arch)
        state = _arrays(model.unmerged(state))
        apply_state(model, state, str(path))
        difference = _difference(model, image, expected)
        if difference <= _TOLERANCE:
            return Imported(state, more)
        differences.append(difference)
    raise UserError(
        f"{path}: with these weights {arch} differs from the graph by {min(differences):.1e} of "
        "the largest output; the graph is another network, or was changed after its export, or the "
        "network takes other arguments (--arch-args)"
    )


@dataclass
class _Arch:
    """A name of the zoo and the arguments that are known."""

    name: str
    class_num: int
    given: dict[str, Any]

    def build(self, more: Mapping[str, Any]) -> Network:
        model = create_model(self.name, class_num=self.class_num, **self.given, **more)
        model.eval()
        return model

    def takes(self, argument: str) -> bool:
        """Whether it has the argument, and nobody has said its value."""
        entry = registry.find("model", self.name, registry.entries())
        names = {one.name for one in entry.arguments} if entry else set()
        return argument in names and argument not in self.given

    def open(self, argument: str, other: Any) -> list[dict[str, Any]]:
        """The usual arguments, and those with another value of one of them."""
        return [{}, {argument: other}] if self.takes(argument) else [{}]


def _layers(model: nn.Layer) -> dict[str, nn.Layer]:
    modules = dict(model.named_sublayers())
    return {k: v for k, v in modules.items() if isinstance(v, nn.Conv2D | nn.Linear)}


def _seen(network: _Arch, found: list[_Layer]) -> dict[str, Any]:
    """Arguments that the graph shows: `stride_list`, `use_last_conv`, `class_expand`."""
    model, more = network.build({}), {}
    model.reparameterize()
    layers = _layers(model)
    linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    width = found[-1].weight.shape[0]
    if network.takes("use_last_conv") and len(found) == len(layers) - 1:
        more["use_last_conv"] = False
    elif network.takes("class_expand") and linear and linear[-1].weight.shape[0] != width:
        more["class_expand"] = width
    if network.takes("stride_list") and len(found) >= len(layers) - 1:
        theirs = [found[list(layers).index(name)].strides for name in model.stride_layers]
        if all(theirs) and theirs != [list(layers[name]._stride) for name in model.stride_layers]:
            more["stride_list"] = [pair[0] if len({*pair}) == 1 else pair for pair in theirs]
    return more


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
            strides = []
            if node.op_type == "Conv":
                said = (list(a.ints) for a in node.attribute if a.name == "strides")
                strides = next(said, [1, 1])
            yield _Layer(weight, bias, norm, strides)

    def _next(self, node: Any) -> Any:
        """The node that alone uses the output of `node`; identities do not count."""
        users = self._users.get(node.output[0], [])
        while len(users) == 1 and users[0].op_type == "Identity":
            users = self._users.get(users[0].output[0], [])
        return users[0] if len(users) == 1 else None


def _match(model: nn.Layer, found: list[_Layer], source: str, arch: str) -> dict[str, np.ndarray]:
    modules, layers = dict(model.named_sublayers()), _layers(model)
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
    return _arrays(state)


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
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


def _example(graph_model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Random input (N, C, H, W), and what the graph makes of it, before a softmax at its end.

    A sure answer would hide the logits.
    """
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
    result = graph_model.graph.output[0]
    last = next((n for n in graph_model.graph.node if result.name in n.output), None)
    if last is not None and last.op_type == "Softmax":
        graph_model.graph.node.remove(last)
        result.name = last.input[0]
    return image, ReferenceEvaluator(graph_model).run(None, {source.name: image})[0]


def _difference(model: nn.Layer, image: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference between network and graph, relative to the output."""
    with paddle.no_grad():
        logits = model(paddle.to_tensor(image))  # (N, classes)
    if np.allclose(expected.sum(axis=1), 1, atol=1e-4) and (expected >= 0).all():
        logits = nn.functional.softmax(logits)  # the graph ends in a softmax of several nodes
    return float(np.abs(logits.numpy() - expected).max() / np.abs(expected).max())
