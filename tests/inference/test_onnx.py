"""The ONNX that we write: equal to the network, complete, and read without the onnx package."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.config import registry
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.inference import export
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.onnx.metadata import read_metadata
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec

onnx = pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
CLASSIFIERS = [name for name, entry in ZOO.items() if entry.classifies]
FAMILIES = {entry.family: name for name, entry in reversed(ZOO.items())}
WHOLE_ZOO = "PPCLS_LITE_TEST_WHOLE_ZOO"  # set to export all networks: some minutes


def kinds(folder: Path) -> Counter[str]:
    model = onnx.load(folder / "inference.onnx")
    return Counter(node.op_type for node in model.graph.node)


def test_hardswish_survives_and_batch_norm_is_folded(exported_both: Any) -> None:
    model = onnx.load(exported_both.folder / "inference.onnx")
    (opset,) = model.opset_import
    assert opset.domain == "" and opset.version >= 14
    found = kinds(exported_both.folder)
    assert (found["HardSwish"], found["Conv"], found["Gemm"]) == (28, 32, 1)
    assert not found.keys() & {"BatchNormalization", "Add", "Sub", "Clip"}


def test_the_batch_is_free_and_the_metadata_complete(exported_both: Any) -> None:
    path = exported_both.folder / "inference.onnx"
    model = onnx.load(path)
    (image,) = model.graph.input
    batch, *sizes = image.type.tensor_type.shape.dim
    assert batch.dim_param == "batch" and [d.dim_value for d in sizes] == [3, 64, 64]
    spec, folder = InferenceSpec.read(path), InferenceSpec.read(exported_both.folder)
    assert spec.labels == folder.labels and spec.transform_ops == folder.transform_ops
    assert spec.versions == folder.versions and "paddle" in spec.versions
    theirs = {entry.key: entry.value for entry in model.metadata_props}
    assert read_metadata(path) == theirs and len(theirs) == 1


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x72\xff\xff\xff\x0f", b"\x77"])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not an ONNX file|carries no inference.yml"):
        InferenceSpec.read(path)


def test_an_onnx_file_of_others_has_no_description(exported_both: Any, tmp_path: Path) -> None:
    model = onnx.load(exported_both.folder / "inference.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"carries no inference.yml in its metadata"):
        Predictor(tmp_path / "other.onnx")


def test_each_format_writes_its_files(network_of: Any, chain: Any, tmp_path: Path) -> None:
    network = network_of("PPLCNet_x0_25", 3)
    program = {"inference.json", "inference.pdiparams"}
    graph = {"inference.onnx"}
    for format, files in (("onnx", graph), ("both", program | graph), ("paddle", program)):
        report = export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format=format)
        assert {path.name for path in report.folder.iterdir()} == {"inference.yml"} | files
        assert set(InferenceSpec.read(report.folder).checksums) == files
        assert ("paddle" in report.engines) == (format != "onnx")
    with pytest.raises(UserError, match="format: expected paddle, onnx or both, found 'tflite'"):
        export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format="tflite")


def test_a_wrong_graph_is_not_kept(
    network_of: Any, chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model_dir: Path, path: Path, description: str, name: str) -> None:
        write(model_dir, path, description, name)
        model = onnx.load(path)
        node = next(n for n in model.graph.node if n.op_type == "HardSwish")
        node.op_type = "Relu"
        onnx.save(model, path)

    write = export.write_onnx
    monkeypatch.setattr(export, "write_onnx", wrong)
    network = network_of("PPLCNet_x0_25", 3)
    with pytest.raises(UserError, match=r"run by .* differs from the network"):
        export_model(network, tmp_path / "m", (3, 64, 64), chain(64), format="onnx")
    assert not (tmp_path / "m").exists()


def test_without_an_engine_onnx_itself_checks(
    network_of: Any, chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "available_engines", lambda: {"paddle": None, "openvino": "no"})
    network = network_of("PPLCNet_x0_25", 3)
    report = export_model(network, tmp_path / "m", (3, 32, 32), chain(32), format="onnx")
    assert report.engines == ("onnx's reference",) and report.max_difference < 1e-3


class Odd(nn.Layer):
    """The rarer ways in which a program can say things."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2D(3)
        self.conv = nn.Conv2D(3, 8, 3, stride=2, padding=[1, 0], dilation=2)
        self.drop = nn.Dropout(0.5, mode="downscale_in_infer")
        self.fc = nn.Linear(8, 4)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(image)  # (N, 3, H, W), no convolution before it
        x = nn.functional.silu(self.conv(x))
        x = nn.functional.avg_pool2d(x, 3, 2, padding=1, exclusive=False)
        return self.fc(self.drop(2 * x.mean([2, 3]) + 1))  # (N, 4)


OPS = [{"ResizeImage": {"size": [32, 32]}}, {"NormalizeImage": {"order": ""}}]


def test_rarer_operations(tmp_path: Path) -> None:
    paddle.seed(0)
    network = Odd()
    network.train()
    network(paddle.randn([4, 3, 32, 32]))  # statistics that are not 0 and 1
    report = export_model(network, tmp_path / "m", (3, 32, 32), OPS, format="both")
    assert report.max_difference < 1e-4


def test_an_unknown_operation_is_refused_by_name(tmp_path: Path) -> None:
    class Strange(Odd):
        def forward(self, image: paddle.Tensor) -> paddle.Tensor:
            return super().forward(paddle.erf(image))

    with pytest.raises(UserError, match=r"operation pd_op.erf has no translation; known: "):
        export_model(Strange(), tmp_path / "m", (3, 32, 32), OPS, format="onnx")
    assert not (tmp_path / "m").exists()


def sized(name: str) -> dict[str, int]:
    """For networks that are made for one size."""
    takes = [argument.name for argument in registry.entries()["model", name].arguments]
    return {"img_size": 64} if "img_size" in takes else {}


@pytest.mark.parametrize("name", CLASSIFIERS if os.environ.get(WHOLE_ZOO) else FAMILIES.values())
def test_networks_of_the_zoo(name: str, network_of: Any, chain: Any, tmp_path: Path) -> None:
    network = network_of(name, 7, **sized(name))
    options = {"add_softmax": False, "format": "onnx"}  # logits: nothing saturates
    report = export_model(network, tmp_path / "m", (3, 64, 64), chain(64), **options)
    assert report.max_difference < 1e-3 and report.changed == 0


def test_any_height_and_width(network_of: Any, chain: Any, tmp_path: Path) -> None:
    network = network_of("ShuffleNetV2_x0_25", 3)
    export_model(network, tmp_path / "m", (3, -1, -1), chain(64), add_softmax=False, format="onnx")
    engine = export.ReferenceEngine(tmp_path / "m" / "inference.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 96), np.float32)
    network.eval()
    expected = network(paddle.to_tensor(x)).numpy()
    assert engine.run(x)[0] == pytest.approx(expected, abs=1e-3 * float(abs(expected).max()))
