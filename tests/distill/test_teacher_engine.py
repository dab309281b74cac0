"""Frozen teachers run by an inference engine: the same answers, or none of it."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.distill import teacher_engine
from ppcls_lite.distill.distillation_model import DistillationModel
from ppcls_lite.distill.teacher_engine import EngineTeacher, engine_teachers
from ppcls_lite.engine.tasks import Distilled
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference import engines
from ppcls_lite.models.create import create_model
from ppcls_lite.system.installed import missing

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing(name)), reason=str(missing(name))))
    for name in ("paddle", "openvino", "onnxruntime")
]
MANY = 10**9  # images: worth an engine


class Strange(nn.Layer):
    """A network without a program: what it does depends on the numbers."""

    from_file, class_num = False, 2

    def forward(self, images: Tensor) -> Tensor:
        return paddle.to_tensor(images.numpy().mean(axis=(2, 3))[:, :2])


def network(name: str = "PPLCNet_x0_25", **arguments: object) -> nn.Layer:
    paddle.seed(0)
    made = create_model(name, class_num=5, **arguments)
    made.eval()
    return made


def images(count: int = 3, edge: int = 32) -> Tensor:
    noise = np.random.default_rng(count).standard_normal((count, 3, edge, edge), np.float32)
    return paddle.to_tensor(noise)


def close(found: Tensor, expected: Tensor) -> None:
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_answers_as_the_network(engine: str, caplog: pytest.LogCaptureFixture):
    own = network()
    teacher = EngineTeacher("Teacher", own, engine, "fp32", 0)
    paddle.seed(7)
    drawn = paddle.rand([3]).numpy()
    paddle.seed(7)
    with paddle.no_grad(), caplog.at_level(logging.INFO, "ppcls_lite"):
        for batch in (images(9), images(2), images(2, 64)):  # sizes and numbers change
            close(teacher(batch), own(batch))
        assert np.array_equal(teacher(images()).numpy(), teacher(images()).numpy())
    assert np.array_equal(paddle.rand([3]).numpy(), drawn)  # a training notices nothing
    lines = [line for line in caplog.messages if f"run by {engine} fp32" in line]
    assert len(lines) == 2 and "on 8 images it differs" in lines[0]  # one for each size


def test_features_come_out_of_the_engine_too():
    own = network(return_patterns=["blocks3", "blocks5"])
    task = Distilled({"Teacher": own, "Student": network()}, None, frozen=["Teacher"])
    plain = task.teacher_outputs({"image": images()})["Teacher"]
    task.teacher_runs["Teacher"] = EngineTeacher("Teacher", own, "paddle", "fp32", 0)
    found = task.teacher_outputs({"image": images()})["Teacher"]
    assert list(found) == list(plain) == ["logits", "blocks3", "blocks5"]
    for name, expected in plain.items():
        close(found[name], expected)
        assert found[name].stop_gradient
    assert list(own(images())) == list(plain)  # the network is as it was


def test_branches_are_merged_in_the_engine_alone():
    own = network("PPLCNetV2_base")
    before = set(own.state_dict())
    with paddle.no_grad():
        close(EngineTeacher("T", own, "paddle", "fp32", 0)(images()), own(images()))
    assert set(own.state_dict()) == before


@pytest.mark.parametrize("teacher", [network, Strange])
def test_what_no_engine_can_run_is_refused(
    teacher: type, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    own = teacher()
    monkeypatch.setitem(teacher_engine.LIMITS, "fp32", 0.0)
    with caplog.at_level(logging.INFO, "ppcls_lite"), paddle.no_grad():
        found = EngineTeacher("Teacher", own, "auto", "fp32", MANY)(images())
        assert np.array_equal(found.numpy(), own(images()).numpy())
        assert "teacher Teacher: run by the network itself" in caplog.text
        with pytest.raises(
            UserError, match=r"Teacher cannot be run by paddle fp32: .*network runs"
        ):
            EngineTeacher("Teacher", own, "paddle", "fp32", MANY)(images())


def test_a_short_run_is_left_to_the_network(monkeypatch: pytest.MonkeyPatch):
    own = network()
    monkeypatch.setattr(teacher_engine, "_exported", None)
    batch = images()
    found = EngineTeacher("T", own, "auto", "fp32", 100)(batch)
    assert np.array_equal(found.numpy(), own(batch).numpy())


def described(engine: str, precision: str = "fp32") -> DistillationModel:
    description = DistillationModel.__new__(DistillationModel)
    description.teacher_engine, description.teacher_precision = engine, precision
    return description


def test_a_gpu_runs_its_teachers_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    frozen = {"Teacher": Strange()}
    assert engine_teachers(described("auto"), frozen, MANY) == {}
    assert engine_teachers(described("network"), frozen, MANY) == {}
    with pytest.raises(UserError, match=r"openvino is for a CPU.*gpu:0; use auto or network"):
        engine_teachers(described("openvino"), frozen, MANY)


def test_a_file_and_the_word_network_leave_everything_as_it_is():
    of_a_file = Strange()
    of_a_file.from_file = True
    assert engine_teachers(described("auto"), {"Teacher": of_a_file}, MANY) == {}
    assert engine_teachers(described("network"), {"Teacher": Strange()}, MANY) == {}
    assert list(engine_teachers(described("auto"), {"Teacher": Strange()}, MANY)) == ["Teacher"]


def test_bf16_needs_an_engine_and_a_processor(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="bf16 is for an inference engine"):
        DistillationModel([], teacher_engine="network", teacher_precision="bf16")
    monkeypatch.setattr(engines, "cpu_runs_bf16", lambda: False)
    with pytest.raises(UserError, match="this CPU does not compute with bf16"):
        EngineTeacher("T", network(), "auto", "bf16", 0)(images())  # required: no way back


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    gone = {"openvino": "openvino is missing", "onnx": "onnx is missing"}
    monkeypatch.setattr(teacher_engine, "missing", gone.get)
    assert EngineTeacher("T", Strange(), "auto", "fp32", 0).engine == "paddle"

    def require(package: str) -> None:
        if package in gone:
            raise UserError(gone[package])

    monkeypatch.setattr(teacher_engine, "require", require)
    with pytest.raises(UserError, match="onnx is missing"):
        EngineTeacher("T", Strange(), "onnxruntime", "fp32", 0)
