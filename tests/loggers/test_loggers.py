"""The loggers against the real packages, offline: what a run sends is there to be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.config.check import build_list
from ppcls_lite.engine.record import Recorder
from ppcls_lite.errors import UserError
from ppcls_lite.loggers.mlflow_logger import MLflow
from ppcls_lite.loggers.tensorboard_logger import TensorBoard
from ppcls_lite.loggers.wandb_logger import WandB
from ppcls_lite.system import installed

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory of the test's own: MLflow writes pictures below it."""
    monkeypatch.chdir(tmp_path)


def send(run_dir, logger):
    """A run of two epochs that is stopped after its first one, and resumed."""
    first = Recorder(run_dir, [logger], {"batch_size": 8, "optimizer": "Momentum"})
    first.open()
    first.show("train/first_batch", PICTURE)
    first.write("step", 1, 10, {"lr": 0.5, "loss": 2.0})
    first.write("train", 1, 20, {"loss": 1.5})
    first.write("eval", 1, 20, {"top1": 0.25, "loss": 1.75})
    first.close()
    assert (run_dir / "metrics.jsonl").exists()
    resumed = Recorder(run_dir, [logger], {"batch_size": 8, "optimizer": "Momentum"})
    resumed.open(3)
    resumed.write("train", 2, 40, {"loss": 1.0})
    resumed.write("eval", 2, 40, {"top1": 0.5, "loss": 1.25})
    resumed.show("best/confusion_matrix", PICTURE, 40)
    resumed.close()


def test_tensorboard_reads_curves_and_pictures(tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    send(tmp_path, TensorBoard())

    def read(curve):
        found = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / curve))
        found.Reload()
        return found

    train, scores = read("train"), read("eval")
    assert [(e.step, e.value) for e in train.Scalars("step/loss")] == [(10, 2.0)]
    assert [(e.step, e.value) for e in train.Scalars("epoch/loss")] == [(1, 1.5), (2, 1.0)]
    assert [(e.step, e.value) for e in scores.Scalars("epoch/top1")] == [(1, 0.25), (2, 0.5)]
    (image,) = train.Images("best/confusion_matrix")
    assert (image.width, image.height) == (8, 8)


def test_mlflow_has_one_run_with_everything(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/store.db"
    pytest.importorskip("sqlalchemy")
    send(tmp_path, MLflow(store, "digits"))
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["optimizer"] == "Momentum"
    history = client.get_metric_history(run.info.run_id, "epoch/eval/top1")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5)]


def test_wandb_offline_keeps_a_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    send(tmp_path, WandB("digits", mode="offline"))
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert runs and len({path.name.rpartition("-")[2] for path in runs}) == 1  # one id
    assert all(list(path.glob("run-*.wandb")) for path in runs)
    assert len(list(tmp_path.rglob("*.png"))) >= 2


def test_one_that_is_not_installed_is_refused_with_its_extra(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    for name in ("TensorBoard", "mlflow", "WandB"):
        with pytest.raises(UserError, match=rf"pip install \"\.\[{name.lower()}\]\""):
            build_list([name], "logger")


class Broken:
    """A logger whose server is away."""

    def open(self, run_dir, hyper_parameters, kept):
        """Works."""

    def add(self, record):
        raise ConnectionError("no route to host")

    def image(self, tag, picture, step):
        raise AssertionError("never called after an error")

    def close(self):
        raise AssertionError("never called after an error")


def test_a_logger_that_fails_is_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ppcls_lite.engine.loggers.logger.handlers", [])
    monkeypatch.setattr("ppcls_lite.engine.loggers.logger.propagate", True)
    Image.fromarray(PICTURE).save(tmp_path / "matrix.png")
    recorder = Recorder(tmp_path, [Broken()])
    recorder.open()
    for step in range(3):
        recorder.write("step", 1, step, {"loss": 1.0})
    recorder.show_file("best/matrix", tmp_path / "matrix.png", 3)
    recorder.close()
    (warning,) = [record for record in caplog.records if record.name == "ppcls_lite"]
    assert warning.message.startswith(
        "Broken is off: it could not write (ConnectionError: no route"
    )
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
