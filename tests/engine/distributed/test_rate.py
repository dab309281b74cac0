"""The learning rate follows the total batch where the recipe asks so; else a warning says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.engine.distributed import World
from ppcls_lite.recipe.parts import scale_rate

ROOT = Path(__file__).resolve().parents[3]
FOUR_CARDS = World(rank=0, size=4)


def schedule_of(
    caplog: pytest.LogCaptureFixture, batch_size: int, world: World, *overrides: str
) -> Any:
    logger = logging.getLogger("ppcls_lite")
    logger.propagate = True
    tree = load_config(str(ROOT / "configs" / "PPLCNet_x0_5.yaml"), list(overrides))
    settings = check(tree)
    schedule = settings.Optimizer.build(epochs=360, step_each_epoch=10).lr
    with caplog.at_level(logging.INFO, "ppcls_lite"):
        scale_rate(settings, schedule, batch_size, world)
    return schedule


def test_the_paper_s_batch_needs_no_word(caplog: pytest.LogCaptureFixture) -> None:
    schedule = schedule_of(caplog, 512, FOUR_CARDS)
    assert schedule(50) == pytest.approx(0.8)
    assert not caplog.records


def test_accumulated_batches_count(caplog: pytest.LogCaptureFixture) -> None:
    schedule_of(caplog, 512, World(), "Global.update_freq=4")
    assert not caplog.records


def test_another_batch_is_warned_of_with_both_numbers(caplog: pytest.LogCaptureFixture) -> None:
    schedule = schedule_of(caplog, 128, World(rank=0, size=2))
    assert schedule(50) == pytest.approx(0.8)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("256 images", "128 images x 2 processes", "2048", "base_batch_size=2048"):
        assert part in record.getMessage()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Cosine", "learning_rate: 0.8, warmup_epoch: 5, eta_min: 0.01"),
        ("Piecewise", "decay_epochs: [30, 60], values: [0.8, 0.08, 0.008]"),
        ("Cyclic", "base_learning_rate: 0.1, max_learning_rate: 0.8, step_size_up: 7"),
        ("OneCycleLR", "max_learning_rate: 0.8"),
        ("ReduceOnPlateau", "learning_rate: 0.8"),
    ],
)
def test_base_batch_size_scales_every_schedule(
    caplog: pytest.LogCaptureFixture, name: str, arguments: str
) -> None:
    plain = f"Optimizer.lr={{name: {name}, {arguments}}}"
    scaled = plain.replace("name:", "base_batch_size: 2048, name:", 1)
    first = schedule_of(caplog, 512, FOUR_CARDS, plain)
    second = schedule_of(caplog, 128, World(rank=0, size=2), scaled)
    for step in range(0, 3600, 50):
        assert second(step) == pytest.approx(first(step) / 8, abs=1e-15)
    assert "multiplied by 0.125" in caplog.text
