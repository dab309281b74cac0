"""Programs beside the predictor's: raw values, and objects after suppression, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import Engine, available_engines, make_engine
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess.detect import DetectionNMS
from ppcls_lite.inference.shipped import Shipped

CLASSES = 3
OPS = [{"ResizeImage": {"size": [24, 16]}}, {"NormalizeImage": {"order": ""}}]
ENGINES = ("paddle", "paddle without oneDNN", "openvino", "onnxruntime")
FEW = {"score_threshold": 0.45, "nms_top_k": 40, "keep_top_k": 25}
SETTINGS = {
    "few": FEW,
    "all": {"score_threshold": 0.0, "nms_threshold": 0.3, "nms_top_k": None, "keep_top_k": None},
    "none": {"score_threshold": 1.0},
}


class TinyDetector(nn.Layer):
    """A box and the scores of three classes for each pixel, from one convolution."""

    outputs = ("boxes", "scores")
    raw_outputs = ("sides", "logits")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4 + CLASSES, 3, padding=1)

    def _parts(self, x: Tensor) -> list[Tensor]:
        both = self.conv(x)
        return [both[:, :4], both[:, 4:]]

    def raw(self, x: Tensor) -> list[Tensor]:
        return self._parts(x)

    def deployed(self, x: Tensor) -> list[Tensor]:
        sides, logits = (part.flatten(2) for part in self._parts(x))
        middle, edge = (sides[:, k : k + 2].transpose([0, 2, 1]) for k in (0, 2))
        boxes = paddle.concat([middle * 8 - edge.abs() * 4, middle * 8 + edge.abs() * 4], axis=2)
        return [boxes, nn.functional.sigmoid(logits)]


class Moody(TinyDetector):
    def raw(self, x: Tensor) -> list[Tensor]:
        return [part + paddle.rand(part.shape) for part in self._parts(x)]


class Classifier(nn.Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shipped, Path]:
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    paddle.seed(7)
    model, home = TinyDetector(), tmp_path_factory.mktemp("programs")
    model.eval()
    for name, settings in SETTINGS.items():
        options: dict[str, Any] = {"postprocess": {"DetectionNMS": settings}, "format": "both"}
        shape = (3, -1, -1) if name == "few" else (3, 16, 24)
        programs = ["nms", "raw", "nms"] if name == "few" else ["nms"]
        export_model(model, home / name, shape, OPS, **options, programs=programs)
    return Shipped(model), home


def engine_of(name: str, folder: Path) -> Engine:
    if name == "paddle without oneDNN":
        return PaddleEngine(folder, mkldnn=False)
    if available_engines()[name] is not None:  # type: ignore[index]
        pytest.skip(f"{name} is not installed")
    return make_engine(folder, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ENGINES)
def test_objects_are_those_of_our_suppression(
    name: str, settings: str, exported: tuple[Shipped, Path]
) -> None:
    """The same rows in the same order, for any batch, and any size where that is free."""
    shipped, home = exported
    answers, engine = DetectionNMS(**SETTINGS[settings]), engine_of(name, home / settings / "nms")
    for count, height, width in ((3, 16, 24), (1, 16, 24), *([(2, 32, 8)] * (settings == "few"))):
        rng = np.random.default_rng(count)
        images = rng.standard_normal((count, 3, height, width), np.float32)
        objects, counts = engine.run(images)
        expected = [answers.objects(*pair) for pair in zip(*shipped.run(images))]
        assert counts.tolist() == [len(rows) for rows in expected]
        assert (settings == "none") == (len(objects) == 0)
        np.testing.assert_allclose(objects, np.concatenate(expected), atol=1e-4)


@pytest.mark.parametrize("name", ENGINES)
def test_raw_values_are_those_of_the_last_layer(name: str, exported: tuple[Shipped, Path]) -> None:
    shipped, home = exported
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 24), np.float32)
    found = engine_of(name, home / "few" / "raw").run(images)
    for array, expected in zip(found, shipped.model.raw(paddle.to_tensor(images)), strict=True):
        np.testing.assert_allclose(array, expected.numpy(), atol=1e-4)


def test_a_later_export_leaves_no_program_of_an_earlier_one(
    exported: tuple[Shipped, Path], tmp_path: Path
) -> None:
    model, nms = exported[0].model, {"DetectionNMS": FEW}
    export_model(model, tmp_path / "a", (3, 16, 24), OPS, nms, programs=["raw"])
    assert (tmp_path / "a" / "raw" / "inference.json").exists()
    export_model(model, tmp_path / "a", (3, 16, 24), OPS, nms)
    assert not (tmp_path / "a" / "raw").exists()


def test_what_has_no_such_program_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"with DetectionNMS has no program 'nmss'; .*: raw, nms$"):
        nms = {"DetectionNMS": None}
        export_model(TinyDetector(), tmp_path / "a", (3, 16, 24), OPS, nms, programs=["nmss"])
    with pytest.raises(UserError, match=r"with Topk has no program 'raw'; it has: none"):
        export_model(Classifier(), tmp_path / "a", (3, 16, 24), OPS, programs=["raw"])
    with pytest.raises(UserError, match=r"with Topk has no program 'maps'; it has: none"):
        export_model(Classifier(), tmp_path / "a", (3, 16, 24), OPS, programs=["maps"])
    with pytest.raises(UserError, match="cannot suppress across classes"):
        across = {"DetectionNMS": {"across_classes": True}}
        export_model(TinyDetector(), tmp_path / "a", (3, 16, 24), OPS, across, programs=["nms"])
    assert not (tmp_path / "a").exists()


def test_a_program_that_differs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the program raw run by paddle gives outputs that differ"):
        nms = {"DetectionNMS": None}
        export_model(Moody(), tmp_path / "a", (3, 16, 24), OPS, nms, programs=["raw"])
    assert not (tmp_path / "a").exists()
