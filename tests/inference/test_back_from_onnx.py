"""An exported ONNX file of any family comes back as weights; arguments are told."""

from __future__ import annotations

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
STRIDES = "stride_list=[2,[2,1],[2,1],[2,1],[2,1]]"  # of networks for lines of text
FAMILIES = [
    *("MobileNetV1_x0_25", "MobileNetV2_x0_25", "MobileNetV3_small_x0_35", "ResNet18_vd"),
    "ShuffleNetV2_x0_25",
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


def test_a_network_with_other_strides_needs_to_be_told(
    sensitive_lines: paddle.nn.Layer, chain: Any, tmp_path: Path
) -> None:
    export_model(sensitive_lines, tmp_path / "m", (3, 64, 64), chain(64), format="onnx")
    call = [str(tmp_path / "m" / "inference.onnx"), str(tmp_path / "back.pdparams")]
    call += ["--arch", "PPLCNet_x0_25"]
    with pytest.raises(UserError, match="differs from the graph by"):
        run(call)
    run([*call, "--arch-args", STRIDES])
    strides = [2, [2, 1], [2, 1], [2, 1], [2, 1]]
    again = create_model("PPLCNet_x0_25", class_num=5, stride_list=strides)
    load_weights(again, tmp_path / "back")
    expected = logits(sensitive_lines)
    assert logits(again) == pytest.approx(expected, abs=float(1e-4 * np.abs(expected).max()))


@pytest.mark.parametrize("text", ["stride_list", "=3", "class_num=3"])
def test_arguments_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--arch-args: expected KEY=VALUE"):
        run(["a.onnx", "b.pdparams", "--arch", "PPLCNet_x0_25", "--arch-args", text])
