"""The comparison of a detector's trunks: which trainings, what is kept, and the table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ppcls_lite.recipe.train as training
from experiments.detection import trunks
from ppcls_lite.errors import UserError

SMALL = ("PPLCNet_x0_25", "MobileNetV3_small_x0_35")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The recipes that would have been trained; each later one scores a point more."""
    seen: list[dict[str, Any]] = []

    def train(tree: dict[str, Any]) -> SimpleNamespace:
        seen.append(tree)
        return SimpleNamespace(exit_code=0, last={"AP": 0.1 + 0.01 * len(seen)})

    monkeypatch.setattr(training, "train", train)
    return seen


def test_all_trunks_have_the_same_budget(
    trained: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trunks", *SMALL, "--epochs", "3", "--cost-size", "64", "--output", str(tmp_path)]
    assert trunks.run([*options, "--seeds", "5", "6"]) == 0
    assert [(t["Arch"]["name"].split("legacy_")[1], t["Global"]["seed"]) for t in trained] == [
        *((name, 5) for name in SMALL),
        *((name, 6) for name in SMALL),
    ]
    assert {t["Global"]["epochs"] for t in trained} == {3} and not any(t["EMA"] for t in trained)
    decays = [t["Optimizer"].get("no_weight_decay_name") for t in trained]
    assert decays == [None, "backbone."] * 2  # as table 4's recipes have it
    table = (tmp_path / "trunks.md").read_text(encoding="utf-8")
    assert "11.0, 13.0 | 12.0 | 1.4 |" in table and "12.0, 14.0 | 13.0 | 1.4 |" in table
    assert table in capsys.readouterr().out

    assert trunks.run([*options, "--seeds", "5", "6", "7"]) == 0
    assert [t["Global"]["seed"] for t in trained[4:]] == [7, 7]  # what is finished stays
    with pytest.raises(UserError, match=r"Global\.epochs: 3 -> 4"):
        trunks.run([*options, "--seeds", "5", "--epochs", "4"])
