from __future__ import annotations

import builtins
import json
import logging

import numpy as np
import paddle
import pytest

from ppcls_lite.engine.record import Recorder
from ppcls_lite.engine.writer import Writer
from ppcls_lite.errors import UserError
from ppcls_lite.loggers.visualdl_logger import VisualDL
from ppcls_lite.report.pictures import RunPictures


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def written(run_dir):
    """Everything in VisualDL's newest files, by curve and chart, by its own reader."""
    from visualdl import LogReader

    scalars, readers = {}, {}
    for folder in sorted((run_dir / "vdl").iterdir()):
        (path,) = folder.glob("vdlrecords.*.log")
        reader = readers[folder.name] = LogReader(file_path=str(path))
        for tag in reader.get_tags().get("scalar", []):
            values = [(r.id, r.value) for r in reader.get_data("scalar", tag)]
            scalars[f"{folder.name}:{tag.replace('%', '/')}"] = values
    return scalars, readers


def test_lines_and_resume(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.open()
    recorder.write("step", 1, 2, {"lr": 0.5, "loss": float("nan")})
    recorder.write("train", 1, 4, {"loss": 1.5})
    recorder.write("eval", 1, 4, {"top1": 0.25})
    assert recorder.lines == 3
    assert lines(tmp_path)[0] == {"kind": "step", "epoch": 1, "step": 2, "lr": 0.5, "loss": None}

    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')  # what a killed process leaves
    resumed = Recorder(tmp_path)
    resumed.open(keep=2)
    resumed.write("eval", 1, 4, {"top1": 0.5})
    assert [r["kind"] for r in lines(tmp_path)] == ["step", "train", "eval"]
    assert lines(tmp_path)[-1]["top1"] == 0.5

    torn = Recorder(tmp_path)
    torn.open(keep=99)
    assert torn.lines == 3
    Recorder(tmp_path).open()
    assert lines(tmp_path) == []


def test_unwritable_file(tmp_path):
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file")
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written"):
        recorder.open()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written.*Global\.checkpoints="):
        recorder.write("step", 1, 1, {"loss": 1.0})


def test_visualdl_really_holds_the_records(tmp_path):
    parameters = {"batch_size": 8, "lr": 0.1, "optimizer": "Momentum", "nesterov": True}
    recorder = Recorder(tmp_path, loggers=[VisualDL()], hyper_parameters=parameters)
    recorder.open()
    recorder.show(
        "train/first_batch", np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    )
    recorder.write("step", 1, 10, {"lr": 0.5, "loss": 2.0})
    recorder.write("step", 1, 20, {"lr": 0.25, "loss": 1.0})
    recorder.write("train", 1, 25, {"loss": 1.5})
    recorder.write("eval", 1, 25, {"mA": 0.75, "f1": 0.5, "loss": 3.0})
    recorder.write("eval", 2, 50, {"mA": 0.8, "f1": 0.6})
    recorder.close()

    scalars, readers = written(tmp_path)
    assert scalars["train:step/loss"] == [(10, 2.0), (20, 1.0)]
    assert scalars["train:step/lr"] == [(10, 0.5), (20, 0.25)]
    assert scalars["train:epoch/loss"] == [(1, 1.5)]  # the same chart as the evaluation's
    assert scalars["eval:epoch/loss"] == [(1, 3.0)]
    assert scalars["eval:epoch/mA"] == [(1, 0.75), (2, pytest.approx(0.8))]
    (image,) = readers["train"].get_data("image", "train%first_batch")
    reader = readers["eval"]
    assert image.image.encoded_image_string.startswith(b"\x89PNG")
    (record,) = reader.get_data("hyper_parameters", reader.get_tags()["hyper_parameters"][0])
    assert [info.name for info in record.hparam.metricInfos] == ["epoch/mA"]
    found = {
        i.name: i.string_value or i.float_value or i.int_value for i in record.hparam.hparamInfos
    }
    assert found["batch_size"] == 8 and found["lr"] == pytest.approx(0.1)
    assert found["optimizer"] == "Momentum" and found["nesterov"] == "True"


def test_visualdl_after_resume_has_no_doubles(tmp_path):
    def begun(lines):
        recorder = Recorder(tmp_path, loggers=[VisualDL()])
        writer = Writer(tmp_path, recorder, pictures=RunPictures(tmp_path))
        writer.open(lines)
        return writer, recorder

    first, recorder = begun(0)
    first.first_batch({"image": paddle.ones([1, 3, 4, 4])})
    for step in (1, 2, 3):
        recorder.write("step", 1, step, {"loss": float(step)})
    first.close()
    resumed, recorder = begun(2)
    recorder.write("step", 1, 3, {"loss": 30.0})
    recorder.write("step", 1, 4, {"loss": 40.0})
    resumed.rewind(3)  # begins VisualDL's file once more
    resumed.close()
    scalars, readers = written(tmp_path)
    assert scalars["train:step/loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert len(readers["train"].get_data("image", "train%first_batch")) == 1


def test_a_writer_that_is_not_active_leaves_nothing(tiny, tmp_path):
    trainer = tiny.build(tmp_path, visualdl=True, pictures=True, epochs=1, save_steps=1)
    old = trainer.writer
    trainer.writer = Writer(
        tmp_path, old.recorder, old.checkpoints, RunPictures(tmp_path), active=False
    )
    assert trainer.fit().exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_missing_visualdl_is_one_warning(tmp_path, monkeypatch, caplog):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "visualdl":
            raise ImportError("No module named 'visualdl'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "propagate", True)
    recorder = Recorder(tmp_path, loggers=[VisualDL()])
    recorder.open()
    recorder.write("step", 1, 1, {"loss": 1.0})
    recorder.show("train/first_batch", np.ones((4, 4, 3), np.uint8))
    recorder.close()
    assert len(lines(tmp_path)) == 1
    (warning,) = caplog.records
    assert warning.message.startswith("VisualDL is off: it is not installed")


def test_failing_visualdl_does_not_stop_training(tmp_path, monkeypatch, caplog):
    import visualdl

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(visualdl.LogWriter, "add_scalar", full)
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "propagate", True)
    recorder = Recorder(tmp_path, loggers=[VisualDL()])
    recorder.open()
    for step in range(5):
        recorder.write("step", 1, step, {"loss": 1.0})
    recorder.close()
    assert len(lines(tmp_path)) == 5
    assert sum("VisualDL is off: it could not write" in r.message for r in caplog.records) == 1
