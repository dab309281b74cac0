"""Weights keep every bit through safetensors, and come back from a folded ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.layers import ConvBN, SqueezeExcitation
from ppcls_lite.models.weights.convert import convert, run
from ppcls_lite.models.weights.load import load_weights, read_state, write_state
from ppcls_lite.models.weights.safetensors_file import read_safetensors

NAME = "PPLCNet_x0_25"


@pytest.fixture
def model(fill: Callable) -> paddle.nn.Layer:
    network = create_model(NAME, class_num=5)
    network.set_state_dict(fill({k: v.shape for k, v in network.state_dict().items()}))
    network.eval()
    return network


def test_safetensors_there_and_back(tmp_path: Path, model: paddle.nn.Layer) -> None:
    source = write_state(tmp_path / "a.pdparams", model.state_dict())
    run([str(source.with_suffix("")), str(tmp_path / "b.safetensors")])
    run([str(tmp_path / "b.safetensors"), str(tmp_path / "c.pdparams")])
    between, back = read_safetensors(tmp_path / "b.safetensors"), read_state(tmp_path / "c")
    for key, value in read_state(source).items():
        for other in (between[key], back[key]):
            assert other.dtype == value.dtype
            np.testing.assert_array_equal(other, value)
    assert set(between) == set(back) == set(model.state_dict())


def test_unknown_formats_and_broken_files(tmp_path: Path, model: paddle.nn.Layer) -> None:
    write_state(tmp_path / "a", model.state_dict())
    with pytest.raises(UserError, match=r"the result is \.pdparams or \.safetensors, not '\.pt'"):
        convert(tmp_path / "a", tmp_path / "a.pt")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="could not be read as safetensors"):
        convert(tmp_path / "x.safetensors", tmp_path / "y.pdparams")
    with pytest.raises(UserError, match=r"no weights at .*gone\.safetensors"):
        convert(tmp_path / "gone.safetensors", tmp_path / "y.pdparams")
    with pytest.raises(UserError, match="--arch is needed"):
        convert(tmp_path / "x.onnx", tmp_path / "y.pdparams")
    assert not (tmp_path / "y.pdparams").exists()


class GraphWriter:
    """Writes a PP-LCNet as an ONNX graph, with batch norms folded or as nodes of their own."""

    def __init__(self, folded: bool) -> None:
        self.onnx = pytest.importorskip("onnx")
        self.folded = folded
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        node = self.onnx.helper.make_node(kind, inputs, [name], **attributes)
        self.nodes.append(node)
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(value.astype("float32"), name))
        return name

    def conv(self, x: str, conv: Any, weight: np.ndarray, bias: np.ndarray | None) -> str:
        inputs = [x, self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        return self.add(
            *("Conv", inputs),
            strides=conv._stride,
            pads=[conv._padding, conv._padding] * 2,
            group=conv._groups,
        )

    def conv_bn(self, x: str, layer: ConvBN) -> str:
        bn, weight = layer.bn, layer.conv.weight.numpy()
        arrays = [t.numpy() for t in (bn.weight, bn.bias, bn._mean, bn._variance)]
        scale, shift, mean, variance = arrays
        if self.folded:
            factor = scale / np.sqrt(variance + bn._epsilon)
            weight = weight * factor[:, None, None, None]
            x = self.conv(x, layer.conv, weight, shift - mean * factor)
        else:
            x = self.conv(x, layer.conv, weight, None)
            x = self.add("BatchNormalization", [x, *map(self.constant, arrays)], epsilon=1e-5)
        return self.add("HardSwish", [x])

    def write(self, model: paddle.nn.Layer, path: Path) -> None:
        x = self.conv_bn("image", model.conv1)
        for name in model.stage_names:
            for block in getattr(model, name):
                x = self.conv_bn(x, block.dw_conv)
                if isinstance(block.se, SqueezeExcitation):
                    gate = self.add("GlobalAveragePool", [x])
                    for conv, act in ((block.se.conv1, "Relu"), (block.se.conv2, "HardSigmoid")):
                        gate = self.conv(gate, conv, conv.weight.numpy(), None)
                        bias = self.constant(conv.bias.numpy().reshape(1, -1, 1, 1))
                        more = {"alpha": 1 / 6, "beta": 0.5} if act == "HardSigmoid" else {}
                        gate = self.add(act, [self.add("Add", [gate, bias])], **more)
                    x = self.add("Mul", [x, gate])
                x = self.conv_bn(x, block.pw_conv)
        x = self.add("GlobalAveragePool", [x])
        x = self.conv(x, model.last_conv, model.last_conv.weight.numpy(), None)
        x = self.add("Mul", [self.add("HardSwish", [x]), self.constant(np.array(0.8))])
        x = self.add("Flatten", [x])
        weight, bias = self.constant(model.fc.weight.numpy().T), model.fc.bias.numpy()
        x = self.add("Gemm", [x, weight, self.constant(bias)], transB=1)
        x = self.add("Softmax", [x])
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            *(self.nodes, "pplcnet"),
            [helper.make_tensor_value_info("image", kind, ["N", 3, 64, 64])],
            [helper.make_tensor_value_info(x, kind, ["N", 5])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 14)]
        self.onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


@pytest.mark.parametrize("folded", [True, False])
def test_from_onnx(tmp_path: Path, model: paddle.nn.Layer, folded: bool) -> None:
    GraphWriter(folded).write(model, tmp_path / "deployed.onnx")
    count, _ = convert(tmp_path / "deployed.onnx", tmp_path / "again.pdparams", NAME)
    again = create_model(NAME, class_num=5)
    assert len(load_weights(again, tmp_path / "again").matched) == count
    again.eval()
    if folded:
        assert not again.conv1.bn._mean.numpy().any()
        np.testing.assert_array_equal(again.conv1.bn.weight.numpy(), 1.0)
    else:
        np.testing.assert_array_equal(again.conv1.bn._mean.numpy(), model.conv1.bn._mean.numpy())
    image = paddle.to_tensor(np.random.RandomState(1).rand(2, 3, 64, 64).astype("float32"))
    with paddle.no_grad():
        got, expected = again(image).numpy(), model(image).numpy()
    assert np.abs(got - expected).max() / np.abs(expected).max() < 1e-4


def test_an_onnx_file_of_another_network_is_refused(tmp_path: Path, model: paddle.nn.Layer) -> None:
    path, target = tmp_path / "deployed.onnx", tmp_path / "x.pdparams"
    GraphWriter(folded=True).write(model, path)
    with pytest.raises(UserError, match=r"in the place of blocks2.* PPLCNet_x0_5 has \["):
        convert(path, target, "PPLCNet_x0_5")
    with pytest.raises(UserError, match="linear layers, ResNet50 has 54"):
        convert(path, target, "ResNet50")
    path.write_bytes(b"no graph")
    with pytest.raises(UserError, match="could not be read as ONNX"):
        convert(path, target, NAME)
    assert not target.exists()


def test_a_graph_that_computes_something_else_is_refused(
    tmp_path: Path, model: paddle.nn.Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = GraphWriter(folded=True)
    add = writer.add

    def with_relu(kind: str, inputs: list[str], **attributes: Any) -> str:
        return add("Relu" if kind == "HardSwish" else kind, inputs, **attributes)

    monkeypatch.setattr(writer, "add", with_relu)
    writer.write(model, tmp_path / "deployed.onnx")
    with pytest.raises(UserError, match="differs from the graph by"):
        convert(tmp_path / "deployed.onnx", tmp_path / "x.pdparams", NAME)


def test_the_source_is_not_written_over(tmp_path: Path, model: paddle.nn.Layer) -> None:
    source = write_state(tmp_path / "a.pdparams", model.state_dict())
    before = source.read_bytes()
    for name in (source, source.with_suffix("")):
        with pytest.raises(UserError, match="is the source itself; name another file"):
            convert(name, source)
    assert source.read_bytes() == before
