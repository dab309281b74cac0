"""Callbacks of a run: when they are called, how they stop it, and what their errors cost."""

from __future__ import annotations

import logging

import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.callbacks import Callback
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.errors import UserError


class Diary(Callback):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls = []

    def on_start(self, run):
        self.calls.append(("start", run.epoch, run.updates))

    def on_step(self, run, values):
        self.calls.append(("step", run.updates, *[key for key in values if key in ("lr", "loss")]))

    def on_epoch(self, run, done):
        self.calls.append(
            ("epoch", done["epoch"], "loss" in done["train"], next(iter(done["eval"])))
        )

    def on_end(self, run, result):
        self.calls.append(("end", len(run.history), result.best["epoch"] == run.best["epoch"]))


def with_callbacks(trainer, *callbacks):
    state, writer = trainer.state, trainer.writer
    return Trainer(state, trainer.loader, trainer.plan, writer, trainer.evaluator, callbacks)


def test_they_are_called_in_order(tiny, tmp_path):
    diary = Diary()
    with_callbacks(tiny.build(tmp_path, epochs=2), diary).fit()
    steps = [("step", update, "lr", "loss") for update in (1, 2, 4, 6, 8, 10, 12)]
    assert diary.calls == [
        ("start", 1, 0),
        *steps[:4],
        ("epoch", 1, True, "top1"),
        *steps[4:],
        ("epoch", 2, True, "top1"),
        ("end", 2, True),
    ]


def test_looking_on_changes_nothing(tiny, tmp_path):
    tiny.build(tmp_path / "alone").fit()
    with_callbacks(tiny.build(tmp_path / "watched"), Diary()).fit()
    alone, watched = (checkpoint.load(tmp_path / n / "latest") for n in ("alone", "watched"))
    assert {k: v.tobytes() for k, v in alone["model"].items()} == {
        k: v.tobytes() for k, v in watched["model"].items()
    }


class Stop(Callback):
    def on_epoch(self, run, done):
        run.stop("a test that wanted one epoch")


class Pause(Callback):
    def on_epoch(self, run, done):
        run.stop("a test that goes on later", is_pause=True)


def test_a_pause_is_one_quiet_line(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ppcls_lite"):
        result = with_callbacks(tiny.build(tmp_path), Pause()).fit()
    assert result.is_pause and not result.complete and result.exit_code == 0
    assert checkpoint.load(tmp_path / "latest")["epoch"] == 2
    assert "Paused by a test that goes on later after epoch 1 of 3" in caplog.text
    assert "Nothing is lost" not in caplog.text


def test_a_callback_stops_the_run_at_an_epochs_end(tiny, tmp_path, caplog):
    result = with_callbacks(tiny.build(tmp_path), Stop()).fit()
    assert result.exit_code == 0 and result.stopped_by is None
    saved = checkpoint.load(tmp_path / "latest")
    assert (saved["epoch"], saved["step_in_epoch"]) == (2, 0)
    assert "Stopped by a test that wanted one epoch after epoch 1 of 3" in caplog.text
    resumed = tiny.build(tmp_path)
    resumed.resume("auto")
    resumed.fit()
    tiny.build(tmp_path / "whole").fit()
    whole = checkpoint.load(tmp_path / "whole" / "latest")["model"]
    parts = checkpoint.load(tmp_path / "latest")["model"]
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


class Broken(Callback):
    def __init__(self, name: str) -> None:
        setattr(self, name, self.fail)

    def fail(self, run, *values):
        if run.updates >= 3:
            raise KeyError("nothing")


@pytest.mark.parametrize(("name", "place"), [("on_step", (1, 4)), ("on_epoch", (2, 0))])
def test_an_error_ends_the_run_with_its_state_saved(tiny, tmp_path, name, place, caplog):
    trainer = with_callbacks(tiny.build(tmp_path), Broken(name))
    with pytest.raises(UserError, match=f"{name} of the callback Broken failed: KeyError"):
        trainer.fit()
    saved = checkpoint.load(tmp_path / "latest")
    assert (saved["epoch"], saved["step_in_epoch"]) == place
    assert f"-o Global.checkpoints={tmp_path / 'latest'}" in caplog.text


def test_what_is_no_callback_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match=r"derive from ppcls_lite\.Callback, found <function"):
        with_callbacks(tiny.build(tmp_path), print_nothing)


def print_nothing():
    """Not a callback."""
