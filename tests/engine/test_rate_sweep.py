"""A sweep over the rates: it changes nothing, and its suggestion follows its rule."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.rate_sweep import MARGIN, RateCurve, sweep
from ppcls_lite.errors import UserError


def arrays_of(run_dir):
    saved = checkpoint.load(run_dir / "latest")
    slots = saved["optimizer"]["slots"]
    found = {f"{slot}.{n}": a for slot, values in slots.items() for n, a in values.items()}
    return {name: array.tobytes() for name, array in {**found, **saved["model"]}.items()}


@pytest.mark.parametrize("optimizer", ["Momentum", "AdamW"])
@pytest.mark.parametrize("ema", [{}, {"ema": 0.9}])
def test_training_after_a_sweep_equals_training_without(tiny, tmp_path, optimizer, ema):
    tiny.build(tmp_path / "without", optimizer, epochs=2, **ema).fit()
    trainer = tiny.build(tmp_path / "after", optimizer, epochs=2, **ema)
    curve = sweep(trainer, 1e-3, 1, 13)  # more than two epochs
    assert len(curve.rates) == 13 and curve.rates[0] == pytest.approx(1e-3)
    trainer.fit()
    assert arrays_of(tmp_path / "after") == arrays_of(tmp_path / "without")
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("after", "without")]
    losses = [[part for part in text.split(", ") if '"loss"' in part] for text in lines]
    assert losses[0] == losses[1]


def test_a_sweep_in_the_middle_of_a_run_is_taken_back_too(tiny, tmp_path):
    tiny.build(tmp_path / "without", "AdamW").fit()
    tiny.build(tmp_path / "after", "AdamW", epochs=1).fit()
    trainer = tiny.build(tmp_path / "after", "AdamW")
    trainer.resume(tmp_path / "after" / "latest")
    sweep(trainer, 1e-4, 10, 8)
    trainer.fit()
    assert arrays_of(tmp_path / "after") == arrays_of(tmp_path / "without")


def test_an_error_within_it_changes_nothing_either(tiny, tmp_path):
    trainer = tiny.build(tmp_path)
    before = {name: t.numpy() for name, t in trainer.state.task.model.state_dict().items()}

    def fail(rate, loss):
        if rate > 0.1:
            raise UserError("on purpose")

    generators = paddle.get_rng_state("cpu")[0].current_seed()
    with pytest.raises(UserError, match="on purpose"):
        sweep(trainer, 1e-3, 1, 10, fail)
    after = {name: t.numpy() for name, t in trainer.state.task.model.state_dict().items()}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert paddle.get_rng_state("cpu")[0].current_seed() == generators
    assert (trainer.state.epoch, trainer.state.step_in_epoch, trainer.state.lines) == (1, 0, 0)


def test_it_ends_where_the_loss_runs_away(tiny, tmp_path):
    trainer = tiny.build(tmp_path, "SGD", net=tiny.LinearNet, loss=tiny.Loss(square))
    curve = sweep(trainer, 1e-4, 1e9, 60)
    assert 10 < len(curve.rates) < 60
    assert all(map(math.isfinite, curve.losses))


def square(outputs, batch):
    return (outputs**2).mean()


def valley(bottom: float) -> RateCurve:
    rates = np.geomspace(1e-5, 10, 100)
    return RateCurve(rates.tolist(), (1 + np.log10(rates / bottom) ** 2 / 10).tolist())


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss():
    curve = valley(0.5)
    assert curve.lowest == pytest.approx(0.5, rel=0.2)
    assert curve.suggestion == pytest.approx(curve.lowest / MARGIN, rel=0.05)
    assert valley(0.005).suggestion == pytest.approx(curve.suggestion / 100, rel=0.3)


def test_a_loss_that_does_not_fall_gives_no_suggestion():
    rates = np.geomspace(1e-5, 10, 100).tolist()
    for seed in range(200):
        noise = 1 + 0.02 * np.random.default_rng(seed).standard_normal(100)
        assert RateCurve(rates, noise.tolist()).suggestion is None, seed
    rising = np.arange(1.0, 31.0).tolist()
    assert RateCurve(rising, rising).suggestion is None
    assert RateCurve([1.0, 2.0], [2.0, 1.0]).suggestion is None
    assert RateCurve([], []).suggestion is None
