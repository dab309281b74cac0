from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.ema import CorrectedAverage, ExponentialAverage
from ppcls_lite.errors import UserError
from ppcls_lite.recipe import parts


def change(model, value):
    for tensor in model.state_dict().values():
        tensor.set_value(paddle.full_like(tensor, value))


def test_average_by_hand(tiny):
    model = tiny.Net()
    change(model, 1.0)
    ema = ExponentialAverage(model, decay=0.9)
    for value in (2.0, 4.0):
        change(model, value)
        ema.update()
    weights = ema.state()["weights"]
    np.testing.assert_allclose(weights["conv.weight"], 0.9 * (0.9 + 0.2) + 0.4, rtol=1e-6)
    np.testing.assert_array_equal(weights["norm._mean"], 4.0)  # statistics are copied
    assert ema.state()["updates"] == 2


def test_warm_up_begins_with_the_newest_weights(tiny):
    model = tiny.Net()
    change(model, 1.0)
    ema = ExponentialAverage(model, decay=0.999, use_warmup=True)
    change(model, 2.0)
    ema.update()
    np.testing.assert_allclose(ema.state()["weights"]["fc.bias"], 0.1 + 0.9 * 2, rtol=1e-6)


def test_the_warm_up_may_grow_by_a_power(tiny):
    """1 - (1 + n / gamma)^-power after n updates, as timm's averages grow."""
    model, power, gamma = tiny.Net(), 2 / 3, 2.0
    change(model, 1.0)
    ema = ExponentialAverage(
        model, decay=0.55, use_warmup=True, warmup_power=power, warmup_gamma=gamma
    )
    expected = 1.0
    for n, value in enumerate((2.0, 5.0, 3.0, 7.0, 4.0, 8.0)):
        change(model, value)
        ema.update()
        decay = min(0.55, 1 - (1 + n / gamma) ** -power)
        expected = decay * expected + (1 - decay) * value
    assert decay == 0.55  # it has grown as far as it may
    np.testing.assert_allclose(ema.state()["weights"]["fc.bias"], expected, rtol=1e-5)
    other = ExponentialAverage(
        tiny.Net(), decay=0.55, use_warmup=True, warmup_power=power, warmup_gamma=gamma
    )
    other.load_state(ema.state(), "a file")
    assert other._decay(other.updates) == ema._decay(ema.updates)


def test_the_recipe_says_how_the_warm_up_grows(tiny):
    tree = {"Arch": {"name": "PPLCNet_x0_25"}}
    settings = check(tree | {"EMA": {"decay": 0.999, "warmup_power": 0.75, "warmup_gamma": 5}})
    ema = parts.build_ema(settings, tiny.Net(), 10**6)  # long enough to need none
    assert ema.use_warmup and ema._decay(5) == 1 - 2**-0.75
    for other in ({"use_warmup": False}, {"type": "threshold"}):
        settings = check(tree | {"EMA": {"warmup_power": 0.75, **other}})
        with pytest.raises(UserError, match=r"EMA\.warmup_power: says how .* which .* decides"):
            parts.build_ema(settings, tiny.Net(), 10)


GOLDEN = Path(__file__).parents[1] / "fixtures" / "detection" / "parts.json"


def test_the_corrected_average_is_paddle_detections(tiny):
    """Applied after every second update, and begun anew after the third time."""
    model = tiny.Net()
    ema = CorrectedAverage(model, decay=0.9998, restart_after=6)
    for known in json.loads(GOLDEN.read_text(encoding="utf-8"))["ema"]:
        change(model, float(known["t"]))
        ema.update()
        state = ema.state()
        for name in ("conv.weight", "norm._mean"):
            np.testing.assert_allclose(state["sums"][name], known["raw"], rtol=1e-6)
            if "applied" in known:
                np.testing.assert_allclose(state["weights"][name], known["applied"], rtol=1e-6)
        other = CorrectedAverage(tiny.Net(), decay=0.9998, restart_after=6)
        other.load_state(state, "a file")
        np.testing.assert_array_equal(other.state()["sums"]["fc.bias"], state["sums"]["fc.bias"])


def test_the_corrected_average_of_no_update_is_the_network(tiny):
    model = tiny.Net()
    change(model, 3.0)
    ema = CorrectedAverage(model)
    with ema.applied():
        assert all((array == 3.0).all() for array in checkpoint.arrays(model).values())
    plain = ExponentialAverage(model).state()
    with pytest.raises(UserError, match="another way"):
        ema.load_state(plain, "latest")


def test_an_average_begins_anew_after_each_cycle(tiny):
    model = tiny.Net()
    change(model, 1.0)
    ema = ExponentialAverage(model, decay=0.9, restart_after=2)
    for value in (2.0, 3.0, 4.0):
        change(model, value)
        ema.update()
    np.testing.assert_allclose(ema.state()["weights"]["fc.bias"], 4.0)


def test_a_recipe_names_the_corrected_average(tiny):
    tree = {"Arch": {"name": "PPLCNet_x0_25"}, "Global": {"epochs": 6}}
    settings = check(tree | {"EMA": {"decay": 0.99, "type": "threshold", "cycle": 2}})
    ema = parts.build_ema(settings, tiny.Net(), 60)
    assert type(ema) is CorrectedAverage
    assert (ema.decay, ema.restart_after) == (0.99, 20)
    settings = check(tree | {"EMA": {"type": "threshold", "use_warmup": False}})
    with pytest.raises(UserError, match=r"EMA\.use_warmup"):
        parts.build_ema(settings, tiny.Net(), 60)


def test_applied_and_put_back(tiny):
    model = tiny.Net()
    ema = ExponentialAverage(model, decay=0.5)
    before = checkpoint.arrays(model)
    change(model, 3.0)
    with pytest.raises(KeyboardInterrupt), ema.applied():
        for name, array in checkpoint.arrays(model).items():
            np.testing.assert_array_equal(array, before[name])
        raise KeyboardInterrupt
    assert all((array == 3.0).all() for array in checkpoint.arrays(model).values())


def test_short_weights_are_averaged_in_float32(tiny):
    model = tiny.Net()
    change(model, 1.0)
    model.to(dtype="bfloat16")
    ema = ExponentialAverage(model, decay=0.999)
    for _ in range(3):
        change(model, 2.0)
        ema.update()
    average = ema.state()["weights"]["fc.weight"]
    assert average.dtype == np.float32
    np.testing.assert_allclose(average, 2 - 0.999**3, rtol=1e-6)  # bfloat16 would stay at 1
    with ema.applied():
        assert model.fc.weight.dtype == paddle.bfloat16
    arrays = checkpoint.arrays(model)
    assert arrays["fc.weight"].dtype == np.float32
    checkpoint.load_arrays(model, {n: a * 0 for n, a in arrays.items()}, "x")
    assert float(model.fc.weight.astype("float32").abs().sum()) == 0.0


def test_state_of_another_network(tiny):
    ema = ExponentialAverage(tiny.Net(4))
    with pytest.raises(UserError, match="another network"):
        ema.load_state(ExponentialAverage(tiny.Net(6)).state(), "run/latest")


def test_both_networks_are_evaluated_and_saved(tiny, tmp_path):
    result = tiny.build(tmp_path, ema=0.9).fit()
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    scores = [record for record in lines if record["kind"] == "eval"]
    names = ("top1", "trace", "CELoss", "loss")
    wanted = [*(f"{name}_ema" for name in names), *names]
    assert all(list(record)[3:] == wanted for record in scores)
    assert result.best["top1_ema"] == max(record["top1_ema"] for record in scores)
    assert any(record["loss_ema"] != record["loss"] for record in scores)
    state = checkpoint.load(tmp_path / "latest")
    for name, weights in (("latest", state["ema"]["weights"]), ("latest_raw", state["model"])):
        saved = paddle.load(str(tmp_path / f"{name}.pdparams"))
        for key, array in weights.items():
            np.testing.assert_array_equal(saved[key], array)
    # the score of the averaged weights is that of the file
    trainer = tiny.build(tmp_path / "other")
    trainer.state.task.model.set_state_dict(paddle.load(str(tmp_path / "latest.pdparams")))
    assert trainer.evaluator.run()["loss"] == pytest.approx(scores[-1]["loss_ema"])


def test_an_average_does_not_change_the_training(tiny, tmp_path):
    tiny.build(tmp_path / "with", ema=0.9).fit()
    tiny.build(tmp_path / "without").fit()
    one, other = (checkpoint.load(tmp_path / n / "latest")["model"] for n in ("with", "without"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_an_average_may_begin_later_and_end_earlier(tiny, tmp_path, caplog):
    caplog.set_level("INFO", "ppcls_lite")
    tiny.build(tmp_path, epochs=1).fit()
    begun = tiny.build(tmp_path, ema=0.9)
    begun.resume(tmp_path / "latest")
    assert "the average starts from its weights" in caplog.text
    weights = checkpoint.load(tmp_path / "latest")["model"]
    np.testing.assert_array_equal(
        begun.state.ema.state()["weights"]["fc.weight"], weights["fc.weight"]
    )
    begun.fit()
    ended = tiny.build(tmp_path, epochs=4)
    ended.resume(tmp_path / "latest")
    ended.fit()
    assert checkpoint.load(tmp_path / "latest")["ema"] is None
    assert not (tmp_path / "latest_raw.pdparams").exists()


@pytest.mark.parametrize(
    ("given", "updates", "grows", "said"),
    [
        ({}, 72, True, "99% would be left after 72 updates, so the decay grows"),
        ({}, 225_000, False, ""),
        ({"use_warmup": False}, 72, False, "lower EMA.decay"),
        ({"use_warmup": True}, 225_000, True, ""),
    ],
)
def test_a_short_run_warms_up(tiny, caplog, given, updates, grows, said):
    caplog.set_level("INFO", "ppcls_lite")
    settings = check({"Arch": {"name": "PPLCNet_x0_25"}, "EMA": {"decay": 0.9999, **given}})
    assert parts.build_ema(settings, tiny.Net(), updates).use_warmup is grows
    assert said in caplog.text and ("would be left" in caplog.text) == bool(said)


RAW, AVERAGED = 0.6, 0.4  # in epoch 1; in epoch 2 the other way round; in epoch 3 equal


def better_ships(tiny, folder, epochs):
    trainer = tiny.build(folder, epochs=epochs, ema=0.9)
    trainer.state.ema.better_ships = True
    scores = iter([(RAW, AVERAGED), (0.3, 0.5), (0.7, 0.7)][trainer.state.epoch - 1 :])
    left = []

    def run(**_):  # first of the network itself, then of the average
        if not left:
            left.extend(next(scores))
        return {"top1": left.pop(0), "loss": 1.0}

    trainer.evaluator.run = run
    return trainer


def test_the_better_network_ships_if_asked(tiny, tmp_path, caplog):
    caplog.set_level("INFO", "ppcls_lite")
    result = better_ships(tiny, tmp_path, 3).fit()
    assert result.best["top1_ema"] == result.best["top1"] == 0.7 and result.best["epoch"] == 3
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    first = [list(record)[3] for record in lines if record["kind"] == "eval"]
    assert first == ["top1", "top1_ema", "top1_ema"]
    for epoch, shipped in ((1, "raw"), (2, "average"), (3, "average")):
        state = checkpoint.load(tmp_path / f"epoch_{epoch}")
        weights = state["model"] if shipped == "raw" else state["ema"]["weights"]
        saved = paddle.load(str(tmp_path / f"epoch_{epoch}.pdparams"))
        assert all(np.array_equal(saved[key], array) for key, array in weights.items())
        raw = paddle.load(str(tmp_path / f"epoch_{epoch}_raw.pdparams"))
        assert all(np.array_equal(raw[key], array) for key, array in state["model"].items())
    assert "the raw network ships: top1 0.40000 averaged, 0.60000 raw" in caplog.text


def test_the_best_of_raw_and_averaged_is_kept(tiny, tmp_path):
    result = better_ships(tiny, tmp_path, 2).fit()
    assert result.best["top1"] == RAW and result.best["epoch"] == 1
    state = checkpoint.load(tmp_path / "best_model")
    saved = paddle.load(str(tmp_path / "best_model.pdparams"))
    assert all(np.array_equal(saved[key], array) for key, array in state["model"].items())
    resumed = tiny.build(tmp_path, ema=0.9, epochs=2)
    resumed.resume("auto")  # 0.6 is the score to beat, whichever network ships
    assert resumed.state.evaluations_since_best == 1 and resumed.state.ema.ships


def test_a_network_that_is_not_finite_does_not_ship(tiny, tmp_path):
    trainer = better_ships(tiny, tmp_path, 1)
    answers = iter([{"top1": 0.9, "not_finite": 3.0}, {"top1": 0.1}])
    trainer.evaluator.run = lambda **_: next(answers)
    assert trainer.fit().best["top1_ema"] == 0.1


def test_the_better_one_needs_an_evaluation(tiny, tmp_path):
    trainer = better_ships(tiny, tmp_path, 1)
    with pytest.raises(UserError, match=r"EMA\.ships: better.*Global\.eval_during_train"):
        type(trainer)(trainer.state, trainer.loader, trainer.plan, trainer.writer)


@pytest.mark.parametrize(
    ("stated", "goes_on"), [(None, True), (False, False)], ids=["left out", "stated"]
)
def test_more_epochs_do_not_switch_the_warm_up_off(tiny, caplog, stated, goes_on):
    caplog.set_level("INFO", "ppcls_lite")
    recipe = {"Arch": {"name": "PPLCNet_x0_25"}, "EMA": {"decay": 0.9, "use_warmup": stated}}
    short = parts.build_ema(check(recipe | {"EMA": {"decay": 0.9}}), tiny.Net(), 10)
    short.update()
    longer = parts.build_ema(check(recipe), tiny.Net(), 1000)
    assert short.use_warmup and not longer.use_warmup
    longer.load_state(short.state(), "run/latest")
    assert longer.use_warmup is goes_on
    assert ("run/latest was averaged with a warm-up, so it goes on with one" in caplog.text) == (
        goes_on
    )
    old = {k: v for k, v in short.state().items() if k in ("weights", "updates")}
    again = parts.build_ema(check(recipe), tiny.Net(), 1000)
    again.load_state(old, "run/latest")  # of a version that did not say
    assert again.use_warmup is False and again.updates == 1
