"""What a kill between two files, an error or a changed recipe must not cost."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.main_score import main_score
from ppcls_lite.engine.record import VARYING
from ppcls_lite.errors import UserError


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    return caplog


class Killed(BaseException):
    """Stands for the end of the process."""


def records(run_dir):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in VARYING} for record in found]


def weights(run_dir, name):
    return {k: v.tobytes() for k, v in checkpoint.load(run_dir / name)["model"].items()}


def assert_same_runs(one, other):
    names = [{p.name for p in folder.glob("*.pd*")} for folder in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".pdstate"):
            assert weights(one, name) == weights(other, name), name
    assert records(one) == records(other)


# Killed while the checkpoints of an epoch are written


@pytest.mark.parametrize("after", range(1, 10))
def test_a_kill_between_two_checkpoints_of_an_epoch_loses_neither(
    tiny, tmp_path, monkeypatch, after
):
    options = {"epochs": 2, "keep_last": 1}
    tiny.build(tmp_path / "whole", **options).fit()
    save, remove, done = checkpoint.save, checkpoint.remove, []

    def dying(act):
        def acting(*args):
            if len(done) == after:
                raise Killed
            done.append(str(args[0]))
            act(*args)

        return acting

    monkeypatch.setattr(checkpoint, "save", dying(save))
    monkeypatch.setattr(checkpoint, "remove", dying(remove))
    trainer = tiny.build(tmp_path / "killed", **options)
    try:
        trainer.fit()
    except Killed:
        assert len(done) == after
    monkeypatch.undo()
    resumed = tiny.build(tmp_path / "killed", **options)
    resumed.resume("auto")
    resumed.fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


# Errors


def test_an_evaluation_that_fails_costs_no_epoch(tiny, tmp_path):
    tiny.build(tmp_path / "whole").fit()
    trainer = tiny.build(tmp_path / "parts")

    def failing(**_):
        raise UserError("photo.jpg is not readable")

    trainer.evaluator.run = failing
    with pytest.raises(UserError, match=r"photo\.jpg"):
        trainer.fit()
    saved = checkpoint.load(tmp_path / "parts" / "latest")
    assert (saved["epoch"], saved["step_in_epoch"], saved["steps_per_epoch"]) == (1, 6, 6)
    loader = tiny.Loader()
    resumed = tiny.build(tmp_path / "parts", loader=loader)
    resumed.resume("auto")
    resumed.fit()
    assert loader.served[0] == (2, 0)  # nothing of the first epoch again
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("error", [UserError("a share hiccups"), OSError("stale file handle")])
def test_an_error_between_two_updates_is_saved(tiny, tmp_path, lines, error):
    tiny.build(tmp_path / "whole").fit()
    loader = tiny.Loader()
    epoch = loader.epoch

    def failing(number, start=0):
        for step, batch in enumerate(epoch(number, start)):
            if (number, step) == (2, 3):
                raise error
            yield batch

    loader.epoch = failing
    with pytest.raises(type(error), match=str(error)):
        tiny.build(tmp_path / "parts", loader=loader).fit()
    saved = checkpoint.load(tmp_path / "parts" / "latest")
    assert (saved["epoch"], saved["step_in_epoch"]) == (2, 3)
    assert f"continue with -o Global.checkpoints={tmp_path / 'parts' / 'latest'}" in lines.text
    resumed = tiny.build(tmp_path / "parts")
    resumed.resume("auto")
    resumed.fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("place", ["loss", "metric", "optimizer"])
def test_an_error_within_an_update(tiny, tmp_path, place):
    """Of its first half, which has moved running statistics and generators, nothing is left."""
    tiny.build(tmp_path / "whole").fit()
    trainer = tiny.build(tmp_path / "parts")
    state, calls = trainer.state, []

    def failing(act):
        def acting(*arguments):
            calls.append(1)
            if len(calls) == 9:  # the third of the second epoch
                raise RuntimeError("out of memory")
            return act(*arguments)

        return acting

    if place == "loss":
        state.task.losses = failing(state.task.losses)
    elif place == "metric":
        state.metrics[0].update = failing(state.metrics[0].update)
    else:
        state.optimizer.step = failing(state.optimizer.step)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit()
    saved = checkpoint.load(tmp_path / "parts" / "latest")
    step = {"loss": 2, "metric": 3, "optimizer": 0}[place]  # weights that moved stay moved
    assert (saved["epoch"], saved["step_in_epoch"]) == (2, step)
    resumed = tiny.build(tmp_path / "parts")
    resumed.resume("auto")
    resumed.fit()
    assert weights(tmp_path / "whole", "latest") == weights(tmp_path / "parts", "latest")
    if place != "metric":  # whose images are missing in that epoch's score
        assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_batch_of_the_evaluation_is_tried_before_training(tiny, tmp_path):
    trainer = tiny.build(tmp_path, epochs=1)
    loader = trainer.evaluator.loader
    trainer.rehearse()
    assert loader.served == [(0, 0)] and trainer.state.task.model.training
    loader.images = loader.images[:, :1]  # grey
    with pytest.raises(ValueError, match="channel"):
        trainer.rehearse()
    assert trainer.state.updates == 0 and not (tmp_path / "metrics.jsonl").exists()


# The best score


def test_the_best_score_outlives_a_switch_of_the_average(tiny, tmp_path):
    first = tiny.build(tmp_path, epochs=1)
    first.evaluator.run = lambda **_: {"top1": 0.4167}
    first.fit()
    best = weights(tmp_path, "best_model")
    resumed = tiny.build(tmp_path, epochs=2, ema=0.9)
    resumed.evaluator.run = lambda **_: {"top1": 0.25}
    resumed.resume("auto")
    result = resumed.fit()
    assert result.best == {"top1": 0.4167, "epoch": 1} and result.last["top1_ema"] == 0.25
    assert weights(tmp_path, "best_model") == best


def test_a_best_model_that_cannot_be_compared_is_kept(tiny, tmp_path, lines):
    first = tiny.build(tmp_path, epochs=1)
    first.evaluator.run = lambda **_: {"top1": 0.9, "loss": 1.0}
    first.fit()
    best = weights(tmp_path, "best_model")
    for epochs, scores in ((2, {"f1": 0.1}), (3, {"f1": 0.05})):
        resumed = tiny.build(tmp_path, epochs=epochs)
        resumed.evaluator.run = lambda scores=scores, **_: scores
        resumed.resume("auto")
        result = resumed.fit()
    assert result.best == {"f1": 0.1, "epoch": 2}
    assert weights(tmp_path, "best_model_top1") == best != weights(tmp_path, "best_model")
    assert lines.text.count("was chosen by top1 (0.90000); now f1 decides") == 1


def test_which_score_is_compared():
    averaged = {"top1_ema": 0.5, "top1": 0.4, "loss": 1.0}
    assert main_score(averaged, "top1") == main_score(averaged, "top1_ema") == 0.5
    assert main_score({"top1": 0.4}, "top1_ema") == 0.4
    assert main_score(averaged, "loss") == 1.0 and main_score(averaged, "f1") is None


def test_epochs_of_another_main_value_are_no_candidates(tiny, tmp_path):
    first = tiny.build(tmp_path, epochs=1, save_interval=9, keep_best=1)
    first.evaluator.run = lambda **_: {"loss_like": 77.0}
    first.fit()
    resumed = tiny.build(tmp_path, epochs=2, save_interval=9, keep_best=1)
    resumed.evaluator.run = lambda **_: {"top1": 0.5}
    resumed.resume("auto")
    resumed.fit()
    assert np.unique([p.stem for p in tmp_path.glob("epoch_*.pdstate")]).tolist() == ["epoch_2"]
