from __future__ import annotations

import json
import logging
import os
import signal

import numpy as np
import paddle
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.meters import NotFiniteError
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.record import VARYING
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    return caplog


def records(run_dir):
    """metrics.jsonl without what no two runs share."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in VARYING} for record in found]


def stop_at(trainer, update, kind=signal.SIGINT):
    """Send `kind` to this process in the middle of the given update (from 1)."""
    step = trainer.step

    def sending(batches):
        step(batches)
        if trainer.state.updates == update:
            os.kill(os.getpid(), kind)

    trainer.step = sending
    return trainer


def assert_same_state(one, other, place="state"):
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same_state(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other)):
            assert_same_state(a, b, f"{place}[{i}]")
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), place
    else:
        assert one == other, place


@pytest.mark.parametrize("optimizer", ["Momentum", "AdamW", "RMSProp", "SGD"])
@pytest.mark.parametrize("update", [1, 6, 9])  # 6 is an epoch's end, before its evaluation
def test_stopped_and_resumed_equals_uninterrupted(tiny, tmp_path, optimizer, update):
    tiny.build(tmp_path / "whole", optimizer).fit()
    stopped = stop_at(tiny.build(tmp_path / "parts", optimizer), update).fit()
    assert stopped.stopped_by == signal.SIGINT and stopped.exit_code == 130

    paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.Linear(2, 2))  # shifts Paddle's names
    paddle.rand([17])
    np.random.rand(3)
    resumed = tiny.build(tmp_path / "parts", optimizer)
    resumed.resume(tmp_path / "parts" / "latest")
    assert resumed.fit().exit_code == 0

    whole = checkpoint.load(tmp_path / "whole" / "latest")
    parts = checkpoint.load(tmp_path / "parts" / "latest")
    assert_same_state(whole, parts)
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_resumed_from_an_earlier_epoch_drops_later_records(tiny, tmp_path):
    tiny.build(tmp_path).fit()
    whole = records(tmp_path)
    resumed = tiny.build(tmp_path)
    resumed.resume(tmp_path / "epoch_1.pdstate")  # the suffix may be given
    assert resumed.state.updates == 6
    resumed.fit()
    assert records(tmp_path) == whole


def test_interrupted_evaluation_is_repeated(tiny, tmp_path):
    tiny.build(tmp_path / "whole").fit()
    trainer = tiny.build(tmp_path / "parts")
    run = trainer.evaluator.run

    def interrupted(**options):
        os.kill(os.getpid(), signal.SIGTERM)
        return run(**options)

    trainer.evaluator.run = interrupted
    assert trainer.fit().exit_code == 143
    assert records(tmp_path / "parts")[-1]["kind"] == "step"
    resumed = tiny.build(tmp_path / "parts")
    resumed.resume(tmp_path / "parts" / "latest")
    resumed.fit()
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_signal_handlers_are_put_back(tiny, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    tiny.build(tmp_path, epochs=1).fit()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_stop_says_how_to_resume(tiny, tmp_path, lines):
    stop_at(tiny.build(tmp_path), 8).fit()
    assert "in epoch 2, after step 2 of 6" in lines.text
    assert f"-o Global.checkpoints={tmp_path / 'latest'}" in lines.text


def test_second_ctrl_c_ends_at_once(tiny, tmp_path):
    trainer = stop_at(tiny.build(tmp_path), 1)
    # while the checkpoint is made
    trainer.state.collect = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()


def test_epochs_are_recorded_saved_and_logged(tiny, tmp_path, lines):
    result = tiny.build(tmp_path, save_interval=2, epochs=4, pictures=True).fit()
    names = {path.name for path in tmp_path.iterdir()}
    prefixes = ("latest", "best_model", "epoch_2", "epoch_4")
    assert {f"{p}.{s}" for p in prefixes for s in ("pdparams", "pdstate")} <= names
    assert not any(name.startswith(("epoch_1.", "epoch_3.", ".")) for name in names)
    assert {"curves.png", "trace.txt", "first_batch.png", "metrics.jsonl"} <= names
    kinds = [record["kind"] for record in records(tmp_path)]
    assert kinds == ["step"] * 4 + ["train", "eval"] + (["step"] * 3 + ["train", "eval"]) * 3
    scores = [r["top1"] for r in records(tmp_path) if r["kind"] == "eval"]
    assert result.best["top1"] == max(scores) and result.last["top1"] == scores[-1]
    assert "[Train][Epoch 1/4][Iter: 2/6]lr(Falling): 0.10000000, top1: " in lines.text
    assert "[Train][Epoch 4/4][Avg]top1: " in lines.text
    assert "peak_rss_mb: " in lines.text
    assert "[Eval][Epoch 1][Avg]top1: " in lines.text
    assert f"[Eval][Epoch 4][best metric: {max(scores):.5f}]" in lines.text


def test_rate_follows_the_schedule(tiny, tmp_path):
    rates = []
    trainer = tiny.build(tmp_path, epochs=2)
    set_lr = trainer.state.optimizer.set_lr
    trainer.state.optimizer.set_lr = lambda lr: (rates.append(lr), set_lr(lr))
    trainer.fit()
    assert rates == [0.2 / (1 + step) for step in range(12)]


def test_best_model_is_the_best_epoch(tiny, tmp_path):
    trainer = tiny.build(tmp_path, epochs=4)
    scores = iter([0.2, 0.7, float("nan"), 0.5])
    trainer.evaluator.run = lambda **_: {"top1": next(scores), "loss": 1.0}
    result = trainer.fit()
    assert result.best == {"top1": 0.7, "loss": 1.0, "epoch": 2}
    best, second = (checkpoint.load(tmp_path / name) for name in ("best_model", "epoch_2"))
    assert_same_state(best["model"], second["model"])
    assert [r["top1"] for r in records(tmp_path) if r["kind"] == "eval"] == [0.2, 0.7, None, 0.5]


def test_evaluation_interval_start_and_last_epoch(tiny, tmp_path):
    trainer = tiny.build(tmp_path, epochs=7, eval_interval=2, start_eval_epoch=4, metrics=[])
    trainer.fit()
    evaluated = [r["epoch"] for r in records(tmp_path) if r["kind"] == "eval"]
    assert evaluated == [4, 6, 7]  # from epoch 4 on, as in PaddleClas


def test_of_equal_scores_the_later_ships_and_early_stop_counts_from_the_first(tiny, tmp_path):
    trainer = tiny.build(tmp_path, epochs=9, early_stop=3, keep_best=1, save_interval=100)
    scores = iter([0.2, 1.0, 1.0, 0.9, 1.0, 1.0])
    trainer.evaluator.run = lambda **_: {"top1": next(scores)}
    result = trainer.fit()
    assert result.best == {"top1": 1.0, "epoch": 5}
    assert trainer.state.epoch == 6 and (tmp_path / "epoch_5.pdparams").exists()
    best, latest = (checkpoint.load(tmp_path / name) for name in ("best_model", "latest"))
    assert_same_state(best["model"], latest["model"])


def test_evaluation_does_not_change_training(tiny, tmp_path):
    tiny.build(tmp_path / "often").fit()
    tiny.build(tmp_path / "once", eval_interval=3).fit()
    often, once = (checkpoint.load(tmp_path / name / "latest") for name in ("often", "once"))
    assert_same_state(often["model"], once["model"])


@pytest.mark.parametrize("weights", [None, [1.0, 9.0, 0.3]])
def test_accumulated_batches_equal_one_large_batch(tiny, tmp_path, weights):
    """Two batches of 4 are one of 8, and at the end 4 and 2 are one of 6."""
    options = {"net": tiny.LinearNet, "loss": CombinedLoss([CELoss(class_weight=weights)])}
    small = tiny.build(tmp_path / "a", loader=tiny.Loader(22, 4), update_freq=2, **options)
    large = tiny.build(tmp_path / "b", loader=tiny.Loader(22, 8), **options)
    assert small.state.steps == large.state.steps == Plan(1, update_freq=2).steps(6) == 3
    small.fit()
    large.fit()
    for name, weight in small.state.task.model.state_dict().items():
        np.testing.assert_allclose(weight, large.state.task.model.state_dict()[name], atol=2e-6)
    losses = [[entry["train"]["loss"] for entry in run.state.history] for run in (small, large)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_accumulation_resumes_in_the_middle_of_an_epoch(tiny, tmp_path):
    options = {"update_freq": 4}  # 6 batches: an update of 4 and one of 2
    tiny.build(tmp_path / "whole", **options).fit()
    stop_at(tiny.build(tmp_path / "parts", **options), 3).fit()
    loader = tiny.Loader()
    resumed = tiny.build(tmp_path / "parts", loader=loader, **options)
    resumed.resume(tmp_path / "parts" / "latest")
    resumed.fit()
    assert loader.served[0] == (2, 4)
    whole, parts = (checkpoint.load(tmp_path / name / "latest") for name in ("whole", "parts"))
    assert_same_state(whole, parts)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_and_says_where(tiny, tmp_path, bad):
    loader = tiny.Loader(12, 4)
    loader.images[5] = bad
    trainer = tiny.build(tmp_path, loader=loader, net=tiny.LinearNet)
    with pytest.raises(NotFiniteError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert "epoch 1, step" in message and "CELoss is" in message and "photo 5.jpg" in message
    assert "no checkpoint was written yet" in message
    assert not (tmp_path / "latest.pdstate").exists()


def test_statistics_that_are_not_finite_stop_too(tiny, tmp_path):
    loader = tiny.Loader(12, 4)
    loader.images[5, 0, 0, 0] = float("nan")  # ReLU hides it from the loss
    trainer = tiny.build(tmp_path, loader=loader)
    with pytest.raises(UserError, match=r"conv\.weight.* became NaN or infinite"):
        trainer.fit()
    assert not (tmp_path / "latest.pdstate").exists()


def test_divergence_keeps_the_last_good_checkpoint(tiny, tmp_path):
    trainer = tiny.build(tmp_path, epochs=2)
    trainer.state.schedule = tiny.Rate(lambda step: 0.1 if step < 8 else float("inf"))
    with pytest.raises(NotFiniteError, match=r"Global\.checkpoints=.*latest") as caught:
        trainer.fit()
    assert "epoch 2, step 4" in str(caught.value)  # the loss after the update of step 3
    assert checkpoint.load(tmp_path / "latest")["epoch"] == 2
    weights = checkpoint.load(tmp_path / "latest")["model"].values()
    assert all(np.isfinite(w).all() for w in weights)


def test_schedule_that_follows_the_score(tiny, tmp_path):
    class Halving:
        """Halves the rate at every observation; the observations are its state."""

        follows_score = True

        def __init__(self):
            self.scores = []

        def __call__(self, step):
            return 0.2 / 2 ** len(self.scores)

        def observe(self, score):
            self.scores.append(score)

        def state(self):
            return {"scores": list(self.scores)}

        def load_state(self, state):
            self.scores = list(state["scores"])

    whole = tiny.build(tmp_path / "whole", schedule=Halving())
    whole.fit()
    assert len(whole.state.schedule.scores) == 3
    assert [entry["lr"] for entry in whole.state.history] == [0.2, 0.1, 0.05]  # used in it
    stop_at(tiny.build(tmp_path / "parts", schedule=Halving()), 8).fit()
    resumed = tiny.build(tmp_path / "parts", schedule=Halving())
    resumed.resume(tmp_path / "parts" / "latest")
    resumed.fit()
    assert resumed.state.schedule.scores == whole.state.schedule.scores
    assert records(tmp_path / "whole") == records(tmp_path / "parts")

    with pytest.raises(UserError, match="follows the evaluation's score"):
        Trainer(whole.state, whole.loader, whole.plan, whole.writer)


def test_resume_refuses_another_epoch_length(tiny, tmp_path):
    tiny.build(tmp_path, epochs=1).fit()
    other = tiny.build(tmp_path, loader=tiny.Loader(22, 8))
    with pytest.raises(UserError, match="6 updates per epoch, this run has 3"):
        other.resume(tmp_path / "latest")


def test_finished_run_resumes_to_nothing(tiny, tmp_path):
    tiny.build(tmp_path).fit()
    before = records(tmp_path)
    again = tiny.build(tmp_path)
    again.resume(tmp_path / "latest")
    assert again.fit().exit_code == 0
    assert records(tmp_path) == before


def test_a_run_with_more_epochs_than_wanted_has_nothing_to_do(tiny, tmp_path, lines):
    tiny.build(tmp_path, epochs=4).fit()
    before = records(tmp_path)
    again = tiny.build(tmp_path, epochs=2)
    again.resume("auto")
    assert "after epoch 4 of 2" in lines.text and "There is nothing to do" in lines.text
    assert again.fit().exit_code == 0 and records(tmp_path) == before


def test_empty_training_set(tiny, tmp_path):
    with pytest.raises(UserError, match="yields no batch"):
        tiny.build(tmp_path, loader=tiny.Loader(0))


def test_it_learns(tiny, tmp_path):
    loader = tiny.Loader(8, 8)
    trainer = tiny.build(
        tmp_path, "AdamW", loader=loader, epochs=80, eval_interval=80, save_interval=80
    )
    trainer.state.task.model.drop = paddle.nn.Identity()
    trainer.state.schedule = tiny.Rate(lambda step: 0.05)
    trainer.fit()
    first, *_, last = (entry["train"]["CELoss"] for entry in trainer.state.history)
    assert last < 0.2 * first
