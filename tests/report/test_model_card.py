"""The card of an exported folder states what files say, and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.report.model_card import write_card


def spec(**arguments: object) -> InferenceSpec:
    names = [f"kind {n}" for n in range(30)]
    topk = {"Topk": {"topk": 1, "label_list": names, **arguments}}
    return InferenceSpec("PPLCNet_x0_25", [], topk, (3, 32, -1), calibration={"coverage": 0.8273})


def test_a_card_of_a_run(make_run: Callable[[Path, int], Path], tmp_path: Path) -> None:
    card = write_card(tmp_path / "card.md", spec(reject_below=0.93), make_run(tmp_path / "run", 2))
    text = card.read_text(encoding="utf-8")
    assert "| top1 | 0.9000 | 0.8000 to 0.9500 (Wilson, 10 images) |" in text
    assert "3 x 32 x any" in text and "kind 19, and 10 more" in text
    assert "- images: 80" in text and "- python: 3.11.7" in text and "the 100 images" in text
    assert "- coverage: 0.8273" in text and "- in use: reject_below 0.93" in text


def test_a_card_of_foreign_weights_claims_nothing(tmp_path: Path) -> None:
    text = write_card(tmp_path / "card.md", spec(), tmp_path).read_text(encoding="utf-8")
    assert "None is known" in text and "## Training" not in text and "the own ones" in text
