"""Contenders take turns; which rounds count; who is left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ppcls_lite.system.timing import in_turns, median_ratio, seconds


def contenders(names: str, calls: list[str]) -> dict[str, Callable[[], int]]:
    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    return {name: lambda name=name: call(name) for name in names}


def test_each_has_a_turn_in_each_round_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    found = in_turns(contenders("ab", calls), rounds=2)
    assert "".join(calls) == "ababab"
    assert found == {"a": [3, 5], "b": [4, 6]}


def test_who_is_left_out_is_not_called_again_and_nobody_left_is_the_end() -> None:
    calls: list[str] = []
    asked: list[int] = []

    def still_running(found: dict[str, list[int]]) -> str:
        asked.append(len(found["b"]))
        return ("abc", "b", "")[len(asked) - 1]

    found = in_turns(contenders("abc", calls), 9, 0, still_running)
    assert "".join(calls) == "abcabcb" and asked == [1, 2, 3]
    assert found == {"a": [1, 4], "b": [2, 5, 7], "c": [3, 6]}


def test_seconds_leaves_out_the_first_calls() -> None:
    calls: list[int] = []
    times = seconds(lambda: calls.append(1), runs=5, dropped=2)
    assert len(calls) == 5 and len(times) == 3 and min(times) >= 0


def test_a_ratio_is_taken_within_the_rounds() -> None:
    assert median_ratio([2, 40, 6], [1, 10, 3]) == 2
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1, 2], [1])
