"""An exported ONNX file of any family comes back as weights; arguments are seen or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.convert import convert, run
from ppcls_lite.models.weights.load import load_weights

pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
FAMILIES = [
    *("MobileNetV1_x0_25", "MobileNetV2_x0_25", "MobileNetV3_small_x0_35", "ResNet18_vd"),
    *("ShuffleNetV2_x0_25", "PPLCNetV2_small"),
]


def logits(network: paddle.nn.Layer) -> np.ndarray:
    network.eval()
    images = np.random.default_rng(3).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with paddle.no_grad():
        return network(paddle.to_tensor(images)).numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_comes_back(name: str, network_of: Any, chain: Any, tmp_path: Path) -> None:
    network = network_of(name, 5)
    export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format="onnx")
    convert(tmp_path / "m" / "inference.onnx", tmp_path / "back.pdparams", name)
    again = create_model(name, class_num=5)
    load_weights(again, tmp_path / "back")
    expected = logits(network)
    assert logits(again) == pytest.approx(expected, abs=float(1e-4 * np.abs(expected).max()))


def test_what_a_merged_network_gets_back_can_be_trained(
    network_of: Any, chain: Any, tmp_path: Path
) -> None:
    network = network_of("PPLCNetV2_small", 5)
    export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format="onnx")
    convert(tmp_path / "m" / "inference.onnx", tmp_path / "back.pdparams", "PPLCNetV2_small")
    again = create_model("PPLCNetV2_small", class_num=5, pretrained=tmp_path / "back")
    again(paddle.rand([2, 3, 64, 64])).square().mean().backward()
    gradients = {
        name: parameter.grad
        for name, parameter in again.named_parameters()
        if not parameter.stop_gradient
    }
    assert all(bool(paddle.isfinite(grad).all()) for grad in gradients.values())
    small = [name for name in gradients if "dw_conv_list.1.bn.weight" in name]
    assert small and all(bool(gradients[name].any()) for name in small)  # the others learn
    assert again.reparameterize() > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride_list": [2, [2, 1], [2, 1], [2, 1], [2, 1]]},  # of networks for lines of text
        {"use_last_conv": False},
        {"class_expand": 64},
        {"dropout_prob": None, "class_expand": 32, "stride_list": [2, 1, 2, 2, 1]},
    ],
)
def test_strides_and_head_are_seen_in_the_graph(
    arguments: dict[str, Any],
    network_of: Any,
    chain: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = network_of("PPLCNet_x0_25", 5, **arguments)
    export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format="onnx")
    call = [str(tmp_path / "m" / "inference.onnx"), str(tmp_path / "back.pdparams")]
    run([*call, "--arch", "PPLCNet_x0_25"])
    says = capsys.readouterr().out
    assert all(f"{name}: {json.dumps(value)}" in says for name, value in arguments.items())
    again = create_model("PPLCNet_x0_25", class_num=5, **arguments)
    load_weights(again, tmp_path / "back")
    expected = logits(network)
    assert logits(again) == pytest.approx(expected, abs=float(1e-4 * np.abs(expected).max()))


def test_other_arguments_need_to_be_told(network_of: Any, chain: Any, tmp_path: Path) -> None:
    network = network_of("PPLCNet_x0_25", 5, act="relu")
    export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format="onnx")
    call = [str(tmp_path / "m" / "inference.onnx"), str(tmp_path / "back.pdparams")]
    with pytest.raises(UserError, match=r"differs from the graph by .* other arguments"):
        run([*call, "--arch", "PPLCNet_x0_25"])
    run([*call, "--arch", "PPLCNet_x0_25", "--arch-args", "act=relu"])


@pytest.mark.parametrize("text", ["stride_list", "=3", "class_num=3"])
def test_arguments_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--arch-args: expected KEY=VALUE"):
        run(["a.onnx", "b.pdparams", "--arch", "PPLCNet_x0_25", "--arch-args", text])
