"""What the load test says of its figures."""

from __future__ import annotations

import pytest

from experiments.serve_load import Load, verdict


@pytest.mark.parametrize(
    ("useful", "late", "met"), [(85, 0.2, True), (84, 0.2, False), (99, 0.21, False)]
)
def test_the_goals_are_stated_and_compared(useful: int, late: float, met: bool) -> None:
    def load(connections: int, answers: int, seconds: float) -> Load:
        found = Load(connections, 1.0, latencies=[seconds] * answers, processor=answers / 100)
        found.statuses[200] = answers
        return found

    one, full = load(1, 50, 0.01), load(64, 100, 0.1)
    found, text = verdict(one, full, load(256, useful, late), full)
    assert found is met and text.startswith("goals met" if met else "goals missed")
    assert f"at 256 connections, 4 x the full load: {useful}% of the peak's useful" in text
    assert f"{10 * late:.2f} x the full load's 100 ms (goal 2)" in text
    assert f"{100 * late:.1f} x one connection's 10.0 ms" in text
