"""The pictures of the guides: what its cases change, and that each picture can be drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import pytest

from experiments import guide
from experiments.guide_pictures import PICTURES

LINES = [f"train/{n}.png {n % 10}" for n in range(1000)]


def test_cases_change_what_they_say() -> None:
    few = guide.first(100)(LINES)
    assert len({*few}) == 100 and {*few} < {*LINES} and few == guide.first(100)(LINES)
    counts = Counter(line.split()[1] for line in guide.rare(LINES))
    assert {digit: counts[digit] for digit in ("0", "4", "5", "9")} == {
        **{"0": 100, "4": 100},
        **{"5": 10, "9": 10},
    }
    changed = guide.mislabelled(0.2)(LINES)
    assert 0.15 < sum(a != b for a, b in zip(changed, LINES)) / len(LINES) < 0.25
    assert guide.mislabelled(0)(LINES) == LINES
    assert [line.split()[0] for line in changed] == [line.split()[0] for line in LINES]


@pytest.mark.parametrize("question", guide.QUESTIONS)
def test_every_question_has_a_picture(question: str, tmp_path: Path) -> None:
    curve = [[epoch, 2 / epoch, 1 - 1 / epoch] for epoch in (1, 2, 3)]
    record = {"top1": 0.9, "recall": [0.9] * 10, "train": curve, "eval": curve}
    PICTURES[question](dict.fromkeys(guide.QUESTIONS[question], record), tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture.shape[1] > 600 and picture.std() > 5
