"""Rates against PaddleClas's golden ones, Paddle's own schedulers and hand-computed points."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.optim import schedule

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "fixtures/classification/lr_schedules.json").read_text()
)
RUN = {"epochs": 6, "step_each_epoch": 7}


def rates(made, count: int = 42) -> list[float]:
    return [made(step) for step in range(count)]


def identity(entry: dict) -> str:
    extra = [k for k in entry["args"] if k not in ("epochs", "step_each_epoch", "learning_rate")]
    return "-".join([entry["name"], *extra])


def is_recursive(entry: dict) -> bool:
    """The one golden entry that holds something else; see the test of the unwarmed cosine."""
    return entry["name"] == "Cosine" and "warmup_epoch" not in entry["args"]


@pytest.mark.parametrize("entry", [e for e in GOLDEN if not is_recursive(e)], ids=identity)
def test_equals_golden(entry):
    made = getattr(schedule, entry["name"])(**entry["args"])
    unit = 7 if entry["by_epoch"] else 1
    found = [made(k * unit) for k in range(len(entry["lr"]))]
    assert found == pytest.approx(entry["lr"], rel=1e-9, abs=1e-15)


def test_unwarmed_cosine_is_the_rate_paddle_trains_with():
    """Without warm-up the golden list is not what PaddleClas's optimizer used.

    It was read with `get_lr()` after `step()`. Paddle's CosineAnnealingDecay computes a rate from
    the one before, so that second reading applies the recursion once too often: it gives
    f(k)^2 / f(k - 1), while the optimizer was given f(k). Both are shown here.
    """
    import paddle

    (entry,) = [e for e in GOLDEN if is_recursive(e)]
    found = rates(schedule.Cosine(**entry["args"]))
    repeated = [found[0], *(b * b / a for a, b in pairwise(found))]
    assert repeated == pytest.approx(entry["lr"], rel=1e-9)

    scheduler = paddle.optimizer.lr.CosineAnnealingDecay(0.1, T_max=42)
    weight = paddle.create_parameter([1], "float32")
    weight.set_value(paddle.zeros([1]))
    sgd = paddle.optimizer.SGD(scheduler, parameters=[weight])
    for rate in found:
        before = weight.item()
        weight.sum().backward()  # a gradient of 1: the weight moves by the rate
        sgd.step()
        sgd.clear_grad()
        scheduler.step()
        assert before - weight.item() == pytest.approx(rate, rel=1e-3, abs=2e-7)


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("name", ["Cosine", "Linear", "Step", "ConstLR"])
def test_by_epoch_changes_only_between_epochs(name, by_epoch):
    extra = {"step_size": 1} if name == "Step" else {}
    made = getattr(schedule, name)(
        learning_rate=0.1, warmup_epoch=2, by_epoch=by_epoch, **RUN, **extra
    )
    first_epoch = set(rates(made, 7))
    assert len(first_epoch) == (1 if by_epoch else 7)
    assert made(14) == 0.1


ITERATIONS = {  # PaddleSeg's rates, by the number of the update
    "poly_lr_80k": {"learning_rate": 0.01, "iters": 80_000, "power": 0.9},
    "poly_lr_240_end1e4": {"learning_rate": 0.01, "iters": 240, "power": 0.9, "end_lr": 1e-4},
    "warmup1000_poly": {
        **{"learning_rate": 0.005, "iters": 80_000, "power": 0.9},
        **{"warmup_steps": 1000, "warmup_start_lr": 1e-5},
    },
}


@pytest.mark.parametrize("name", ITERATIONS)
def test_rates_of_iterations_equal_golden(name, segmentation):
    golden = json.loads((segmentation / "seg_metrics_lr_loss.json").read_text())[name]
    made = schedule.Linear(epochs=20, step_each_epoch=4000, **ITERATIONS[name])
    found = [made(int(step)) for step in golden]
    assert found == pytest.approx(list(golden.values()), rel=1e-9, abs=1e-12)


def test_a_cosine_longer_than_the_run_with_a_warmup_of_steps():
    """PaddleDetection's: base 0.32, 300 epochs of 25 updates, 300 updates from a tenth on."""
    options = {"warmup_steps": 300, "warmup_start_factor": 0.1, "decay_epochs": 300}
    made = schedule.Cosine(200, 25, 0.32, **options)
    for step in (0, 1, 150, 299):
        share = step / 300
        assert made(step) == pytest.approx(0.32 * (0.1 * (1 - share) + share), rel=1e-9)
    for step in (300, 301, 4999):
        angle = math.pi * (step - 300) / (7500 - 300)
        assert made(step) == pytest.approx(0.16 * (1 + math.cos(angle)), rel=1e-9)
    assert made(4999) > 0.05
    short = schedule.Linear(4, 10, 0.1, decay_epochs=2)
    assert [short(step) for step in (0, 10, 20, 39)] == pytest.approx([0.1, 0.05, 0, 0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"warmup_steps": 3, "warmup_epoch": 1}, "warmup_steps and warmup_epoch are both given"),
        ({"warmup_steps": 3, "by_epoch": True}, "warmup_steps and by_epoch are both given"),
        ({"warmup_start_lr": 0.1, "warmup_start_factor": 0.5}, "both say where the warm-up begins"),
    ],
)
def test_two_ways_of_saying_it_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        schedule.Cosine(learning_rate=0.1, **RUN, **options)


def test_warmup_of_part_of_an_epoch():
    made = schedule.ConstLR(learning_rate=0.2, warmup_epoch=0.5, **{**RUN, "step_each_epoch": 8})
    assert rates(made, 6) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.2])


def test_warmup_longer_than_the_run_is_cut_and_logged(caplog):
    with caplog.at_level(logging.INFO, "ppcls_lite"):
        made = schedule.Cosine(learning_rate=0.8, warmup_epoch=5.0, epochs=1, step_each_epoch=4)
    assert rates(made, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [r.message for r in caplog.records] == [
        "warmup_epoch 5 is cut to the 1 epochs of this run",
        "the whole run is warm-up: it ends at its highest rate",
    ]


def test_cosine_and_linear_stay_at_their_end():
    assert schedule.Cosine(learning_rate=1.0, eta_min=0.25, **RUN)(50) == 0.25
    assert schedule.Linear(learning_rate=1.0, end_lr=0.5, **RUN)(50) == 0.5


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_linear_cycle_equals_paddle(power):
    from paddle.optimizer import lr

    made = schedule.Linear(learning_rate=0.3, power=power, cycle=True, **RUN)
    oracle = lr.PolynomialDecay(0.3, decay_steps=42, end_lr=0.0, power=power, cycle=True)
    for step in range(100):
        assert made(step) == pytest.approx(oracle(), rel=1e-9, abs=1e-15)
        oracle.step()


def test_step_of_part_of_an_epoch():
    made = schedule.Step(learning_rate=1.0, step_size=0.5, gamma=0.5, epochs=2, step_each_epoch=4)
    assert rates(made, 8) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    tiny = schedule.Step(learning_rate=1.0, step_size=0.1, gamma=0.5, epochs=1, step_each_epoch=4)
    assert rates(tiny, 3) == [1, 0.5, 0.25]


# --- Piecewise ------------------------------------------------------------------------------

OFFICIAL = {"decay_epochs": [30, 60, 90], "values": [0.1, 0.01, 0.001, 0.0001]}


def test_piecewise_of_the_official_mobilenet_recipe():
    """It gives learning_rate as well as the values, in agreement."""
    made = schedule.Piecewise(120, 1, learning_rate=0.1, **OFFICIAL)
    assert [made(e) for e in (0, 29, 30, 60, 90, 119)] == [0.1, 0.1, 0.01, 0.001, 0.0001, 0.0001]
    alone = schedule.Piecewise(120, 1, learning_rate=0.1)
    assert rates(alone, 120) == pytest.approx(rates(made, 120))
    assert rates(schedule.Piecewise(5, 1, learning_rate=0.1), 5) == [0.1] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (OFFICIAL | {"learning_rate": 0.2}, "contradict"),
        ({"decay_epochs": [30], "values": [0.1]}, "one more than the 1 decay_epochs, found 1"),
        ({"decay_epochs": [30]}, "both decay_epochs and values"),
        ({}, "learning_rate alone"),
        ({"decay_epochs": [30, 20], "values": [0.1, 0.2, 0.3]}, "increasing"),
    ],
)
def test_piecewise_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        schedule.Piecewise(120, 1, **arguments)


def test_multistep_refuses_unordered_milestones():
    with pytest.raises(UserError, match="milestones: expected increasing"):
        schedule.MultiStepDecay(learning_rate=0.1, milestones=[4, 2], **RUN)


# --- Cyclic and OneCycleLR ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "gamma"), [("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.9)]
)
@pytest.mark.parametrize("down", [None, 3])
def test_cyclic_equals_paddle(mode, gamma, down):
    from paddle.optimizer import lr

    made = schedule.Cyclic(6, 7, 0.1, 0.5, 5, down, mode, gamma)
    oracle = lr.CyclicLR(0.1, 0.5, 5, down, mode, gamma)
    for step in range(42):
        assert made(step) == pytest.approx(oracle(), rel=1e-9)
        oracle.step()


def test_cyclic_after_warmup():
    made = schedule.Cyclic(6, 7, 0.1, 0.5, 5, warmup_epoch=1)
    assert made(0) == 0
    assert made(7) == pytest.approx(0.1)
    assert made(12) == pytest.approx(0.5)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_equals_paddle(strategy, three_phase):
    from paddle.optimizer import lr

    made = schedule.OneCycleLR(
        6, 7, 0.5, anneal_strategy=strategy, three_phase=three_phase, phase_pct=0.3
    )
    oracle = lr.OneCycleLR(0.5, 42, 25.0, 1e-10, 0.3, strategy, three_phase)
    for step in range(42):
        assert made(step) == pytest.approx(oracle(), rel=1e-9, abs=1e-15)
        oracle.step()


@pytest.mark.parametrize("phase_pct", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_one_cycle_of_a_few_updates_is_defined(epochs, phase_pct):
    made = schedule.OneCycleLR(epochs, 1, 0.5, phase_pct=phase_pct)
    assert all(0 <= rate <= 0.5 + 1e-12 for rate in rates(made, epochs + 1))


def test_one_cycle_refuses_a_rise_and_fall_longer_than_the_run():
    with pytest.raises(UserError, match="three_phase"):
        schedule.OneCycleLR(6, 7, 0.5, phase_pct=0.5, three_phase=True)


# --- ReduceOnPlateau ------------------------------------------------------------------------

SCORES = [0.1, 0.3, 0.3, 0.29, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 2])
def test_plateau_equals_paddle(mode, threshold_mode, cooldown):
    from paddle.optimizer import lr

    options = {
        "mode": mode,
        "factor": 0.5,
        "patience": 1,
        "threshold": 0.05,
        "threshold_mode": threshold_mode,
        "cooldown": cooldown,
        "min_lr": 0.02,
    }
    made = schedule.ReduceOnPlateau(learning_rate=0.1, **RUN, **options)
    oracle = lr.ReduceOnPlateau(0.1, **options)
    seen = set()
    for score in SCORES:
        made.observe(score)
        oracle.step(score)
        assert made(20) == pytest.approx(oracle(), rel=1e-12)
        seen.add(made(20))
    assert len(seen) > 1


def test_plateau_keeps_its_history_and_warms_up():
    options = {"learning_rate": 0.1, "patience": 0, "warmup_epoch": 1, **RUN}
    first, resumed = (schedule.ReduceOnPlateau(**options) for _ in range(2))
    for score in (0.5, 0.4):
        first.observe(score)
    resumed.load_state(json.loads(json.dumps(first.state())))
    for made in (first, resumed):
        made.observe(0.3)
        assert made(7) == pytest.approx(0.001)
        assert made(0) == 0.0
    with pytest.raises(UserError, match="factor"):
        schedule.ReduceOnPlateau(learning_rate=0.1, factor=1.0, **RUN)


def test_plateau_recovers_from_a_first_score_that_is_not_a_number():
    made = schedule.ReduceOnPlateau(learning_rate=0.1, patience=1, **RUN)
    for score in (math.nan, 0.3, 0.4, math.nan, 0.5):
        made.observe(score)
    assert made(20) == 0.1
    for _ in range(2):
        made.observe(math.nan)
    assert made(20) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"warmup_epoch": 6}, ["the whole run is warm-up: it ends at its highest rate"]),
        ({"warmup_epoch": 2, "by_epoch": True}, ["the whole first epoch has the learning rate 0"]),
        (
            {"warmup_epoch": 2, "step_each_epoch": 1},
            ["the whole first epoch has the learning rate"],
        ),
        ({"warmup_epoch": 2, "by_epoch": True, "warmup_start_lr": 0.01}, []),
        ({"warmup_epoch": 2}, []),
    ],
)
def test_a_warmup_that_trains_nothing_or_never_ends_is_said(arguments, says, caplog):
    schedule.ConstLR(learning_rate=0.1, **RUN | arguments)
    assert [r.message[: len(text)] for r, text in zip(caplog.records, says)] == says
    assert len(caplog.records) == len(says)


# --- the paper's recipe, and the registry ---------------------------------------------------


def test_the_papers_schedule():
    made = schedule.Cosine(360, 626, 0.8, warmup_epoch=5)
    assert made(0) == 0
    assert made(5 * 626) == 0.8
    assert made(5 * 626 + 355 * 313) == pytest.approx(0.4)
    assert made(360 * 626 - 1) == pytest.approx(0.4 * (1 + math.cos(math.pi * (1 - 1 / 222230))))


def test_schedules_are_registered_and_need_no_paddle():
    code = (
        "import sys; from ppcls_lite.config import check, registry;"
        "made = check.build({'learning_rate': '1e-1'}, 'schedule', epochs=2, step_each_epoch=3);"
        "import ppcls_lite.optim.schedule, ppcls_lite.optim.optimizers;"
        "print(made(0), 'paddle' in sys.modules, *registry.names('schedule'))"
    )
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [
        *("0.1", "False", "ConstLR", "Constant", "Cosine", "Cyclic", "Linear", "MultiStepDecay"),
        *("OneCycleLR", "Piecewise", "ReduceOnPlateau", "Step"),
    ]


def test_the_rates_of_picodet_are_paddle_detections():
    """Warm-up in updates from a share of the rate, and a cosine over 300 epochs."""
    file = Path(__file__).parents[1] / "fixtures/detection/parts.json"
    known = json.loads(file.read_text(encoding="utf-8"))["lr"]
    steps = {"warmup_steps": 300, "warmup_start_factor": 0.1, "decay_epochs": 300}
    made = schedule.Cosine(300, 25, learning_rate=0.32, **steps)
    assert {step: made(int(step)) for step in known} == pytest.approx(known, rel=1e-6, abs=1e-12)
    shorter = schedule.Cosine(200, 25, learning_rate=0.32, **steps)
    assert shorter(4999) == made(4999) > 0.05
