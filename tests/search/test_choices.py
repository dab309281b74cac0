"""What scored candidates say of each choice."""

import dataclasses
import math

import pytest

from ppcls_lite.config.check import build
from ppcls_lite.search import report
from ppcls_lite.search.choices import Choice, choices
from ppcls_lite.search.run import Result

SPACE = build(
    {
        "name": "PPLCNetSpace",
        "stem": [8],
        "widths": [[8, 16], [8], [8], [8], [8]],
        "depths": [[1], [1], [1], [1], [1, 2]],
        "kernels": [3, 5],
        "attention": "tail",
        "expand": [16],
    },
    "space",
)


def scored() -> tuple[list[dict], list[float]]:
    """Candidates of one or two blocks in the last stage, whose second kernel alone matters."""
    found, scores = [], []
    for number in range(12):
        kernel = 3 if number % 2 else 5
        chosen = {"width2": (8, 16)[number // 2 % 2], "depth6": 1 if number < 4 else 2}
        chosen |= {"kernel6.1": kernel, "kernel2.0": 5 if number == 0 else 3}
        found.append(SPACE.canonical(SPACE.smallest() | chosen))
        scores.append(0.5 + (0.1 if kernel == 5 and number >= 4 else 0) + number / 1000)
    return found, scores


def test_what_matters_comes_first_and_what_does_not_is_left_out() -> None:
    found = choices(SPACE, *scored())
    assert [choice.slot for choice in found[:1]] == ["kernel6.1"]
    assert {choice.slot for choice in found} == {"kernel6.1", "depth6", "width2"}
    first = found[0]
    assert [(option, count) for option, _, count in first.means] == [(3, 4), (5, 4)]
    assert [mean for _, mean, _ in first.means] == pytest.approx([0.508, 0.607])
    assert first.gap == pytest.approx(0.099)
    variance = (0.003**2 + 0.001**2 + 0.001**2 + 0.003**2) / 3  # of 5, 7, 9, 11 thousandths
    assert first.error == pytest.approx(math.sqrt(2 * variance / 4))
    assert first.surety == pytest.approx(first.gap / first.error)


def test_few_candidates_say_nothing() -> None:
    candidates, values = scored()
    assert choices(SPACE, candidates[:3], values[:3]) == []
    same = choices(SPACE, candidates, [1.0] * 12)
    assert {choice.gap for choice in same} == {0.0}


def test_an_option_may_be_a_list() -> None:
    keys = {"depths": [[1, 1, 2, 1], [2, 2, 6, 2]], "scale": [0.25, 0.5]}
    space = build({"name": "ArchSpace", "network": "PPLCNetV2", "keys": keys}, "space")
    drawn = [{"depths": keys["depths"][n % 2], "scale": 0.25 + n // 4 / 4} for n in range(8)]
    first, second = choices(space, drawn, [1.0 + n % 2 + n / 100 for n in range(8)])
    assert (first.slot, first.gap) == ("depths", pytest.approx(1.01)) and second.slot == "scale"
    assert [option for option, _, _ in first.means] == keys["depths"]


def test_the_report_has_the_surest() -> None:
    many = [Choice(f"slot{n}", [(3, 0.25, 5), (5, 0.75, 4)], 0.5, 0.125) for n in range(20)]
    empty = {field.name: None for field in dataclasses.fields(Result)}
    result = Result(**empty | {"choices": many, "scored": 9, "price": "a short training"})
    lines = report._choices(result)
    assert lines[0] == "## What pays" and "9 candidates that a short training scored" in lines[2]
    assert lines[6] == "| slot0 | 3: 0.2500 (5), 5: 0.7500 (4) | 0.5000 | 0.1250 |"
    assert sum(line.startswith("| slot") for line in lines) == 12
    result.choices = []
    assert report._choices(result) == []
