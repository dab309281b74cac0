"""Mixed precision without a GPU: Paddle's part is played by stand-ins, the wiring is ours."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from functools import partial

import numpy as np
import paddle
import pytest

from ppcls_lite.engine import amp, checkpoint
from ppcls_lite.engine.amp import Precision
from ppcls_lite.errors import UserError


class Scaler:
    """`paddle.amp.GradScaler` in float32: scales, skips, halves, doubles."""

    def __init__(self, scale=8.0, grows_every=3):
        self.value, self.grows_every, self.good = scale, grows_every, 0
        self._cache_found_inf = False

    def scale(self, var):
        return var * self.value

    def step(self, optimizer):
        gradients = [p.grad for p in optimizer._parameter_list if p.grad is not None]
        self._cache_found_inf = not all(bool(paddle.isfinite(g).all()) for g in gradients)
        for gradient in gradients:
            gradient.set_value(gradient / self.value)
        if not self._cache_found_inf:
            optimizer.step()

    def update(self):
        self.good = 0 if self._cache_found_inf else self.good + 1
        if self._cache_found_inf:
            self.value /= 2
        elif self.good == self.grows_every:
            self.value, self.good = self.value * 2, 0

    def state_dict(self):
        return {"scale": np.array([self.value], np.float32), "good": self.good}

    def load_state_dict(self, state_dict):
        self.value, self.good = float(state_dict["scale"][0]), state_dict["good"]


def poisoned(trainer, updates):
    """Losses of these updates (from 0) are infinite."""
    losses = trainer.state.task.losses

    def infinite(batch):
        terms, outputs = losses(batch)
        if trainer.state.updates in updates:
            terms["loss"] = terms["loss"] * float("inf")
        return terms, outputs

    trainer.state.task.losses = infinite
    return trainer


def test_scaling_changes_no_weight(tiny, tmp_path):
    tiny.build(tmp_path / "plain").fit()
    trainer = tiny.build(tmp_path / "scaled", precision=Precision(scaler=Scaler()))
    trainer.fit()
    plain = checkpoint.load(tmp_path / "plain" / "latest")["model"]
    scaled = checkpoint.load(tmp_path / "scaled" / "latest")["model"]
    assert all(np.array_equal(plain[n], scaled[n]) for n in plain)  # powers of two are exact
    assert trainer.state.precision.scaler.value == 8.0 * 2**6
    saved = checkpoint.load(tmp_path / "scaled" / "latest")["precision"]
    assert saved["scaler"]["scale"] == 512 and saved["skipped"] == 0


def test_an_update_that_is_not_finite_is_skipped(tiny, tmp_path):
    trainer = tiny.build(tmp_path, precision=Precision(scaler=Scaler()), ema=0.5)
    poisoned(trainer, {1, 2})
    before = []
    step = trainer.step

    def watched(batches):
        weight, average = trainer.state.task.model.fc.weight.numpy(), trainer.state.ema.updates
        step(batches)
        unchanged = np.array_equal(weight, trainer.state.task.model.fc.weight.numpy())
        before.append((unchanged, trainer.state.ema.updates == average))

    trainer.step = watched
    trainer.fit()
    assert [i for i, kept in enumerate(before) if kept == (True, True)] == [1, 2]
    assert all(kept in ((True, True), (False, False)) for kept in before)
    assert (trainer.state.precision.skipped, trainer.state.precision.skipped_in_row) == (2, 0)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(r["loss"]) for r in records if r["kind"] == "train")


def test_many_in_a_row_stop_with_advice(tiny, tmp_path):
    precision = Precision(scaler=Scaler(), max_skipped=4)
    trainer = poisoned(tiny.build(tmp_path, precision=precision), {1, *range(3, 99)})
    with pytest.raises(UserError, match="4 updates in a row were skipped") as caught:
        trainer.fit()
    assert trainer.state.updates == 6
    for advice in ("AMP.use_amp=False", "scale is 0.25 now", "bfloat16", "learning rate"):
        assert advice in str(caught.value)


def test_the_scale_and_the_counts_are_resumed(tiny, tmp_path):
    def make(folder):
        precision = Precision(scaler=Scaler(grows_every=4), max_skipped=9)
        return poisoned(tiny.build(folder, precision=precision, ema=0.9), {5, 6, 7, 13})

    make(tmp_path / "whole").fit()
    part = make(tmp_path / "parts")
    step = part.step

    def interrupted(batches):
        step(batches)
        if part.state.updates == 7:
            os.kill(os.getpid(), signal.SIGINT)

    part.step = interrupted
    assert part.fit().exit_code == 130
    resumed = make(tmp_path / "parts")
    resumed.resume(tmp_path / "parts" / "latest")
    assert resumed.state.precision.skipped_in_row == 2
    resumed.fit()
    one, other = (checkpoint.load(tmp_path / n / "latest") for n in ("whole", "parts"))
    assert one["precision"] == other["precision"]
    for part in (lambda state: state["model"], lambda state: state["ema"]["weights"]):
        assert all(np.array_equal(part(one)[name], part(other)[name]) for name in one["model"])


def test_forward_passes_are_cast(tiny, tmp_path):
    seen = []

    def context(name):
        @contextlib.contextmanager
        def cast():
            seen.append(name)
            yield

        return cast

    precision = Precision(context("train"), Scaler(), context("test"))
    tiny.build(tmp_path, epochs=1, precision=precision).fit()
    assert seen == ["train"] * 6 + ["test"]


def test_on_a_cpu_one_line_says_that_it_has_no_effect(tiny, caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    model = tiny.Net()
    precision = amp.mixed(model, None, level="O2", scale_loss=128.0)
    assert precision.scaler is None and precision.state() is None
    (line,) = caplog.messages
    assert "no effect on a CPU" in line and "float32" in line
    assert model.fc.weight.dtype == paddle.float32


@pytest.mark.parametrize(
    ("level", "dtype", "in_test", "scale", "dynamic", "casts_test"),
    [
        ("O1", "float16", False, 128.0, True, False),
        ("O1", "float16", True, 128.0, True, True),
        ("O1", "bfloat16", False, 1.0, False, False),
        ("O2", "float16", False, 128.0, True, True),
    ],
)
def test_what_paddle_is_asked_for(monkeypatch, level, dtype, in_test, scale, dynamic, casts_test):
    calls = {}
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    for name in ("decorate", "GradScaler", "auto_cast"):
        noted = partial(lambda name, **given: calls.update({name: given}), name)
        monkeypatch.setattr(paddle.amp, name, noted)
    precision = amp.mixed(
        *("model", "optimizer"),
        level=level,
        dtype=dtype,
        scale_loss=128.0,
        use_dynamic_loss_scaling=True,
        use_promote=True,
        use_fp16_test=in_test,
    )
    assert calls["GradScaler"] == {"init_loss_scaling": scale, "use_dynamic_loss_scaling": dynamic}
    wanted = {"models": "model", "optimizers": "optimizer", "level": "O2", "dtype": dtype}
    assert calls.get("decorate") == (wanted if level == "O2" else None)
    precision.cast()
    assert calls["auto_cast"] == {"level": level, "dtype": dtype, "use_promote": True}
    assert (precision.test_cast is precision.cast) == casts_test


def test_the_real_scaler_has_what_we_use(tiny, tmp_path):
    """On a CPU it is switched off, but its methods are there."""
    trainer = tiny.build(tmp_path, epochs=1)
    with pytest.warns(UserWarning, match="can only be enabled on CUDAPlace"):
        scaler = paddle.amp.GradScaler(init_loss_scaling=8.0)
    trainer.state.precision = Precision(scaler=scaler)
    scaler._cache_found_inf = False
    trainer.fit()
    assert checkpoint.load(tmp_path / "latest")["precision"]["scaler"] == {}
