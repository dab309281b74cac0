"""Comparing speeds on a machine that others use too: the contenders take turns.

In every round each contender has one turn, so that what disturbs the machine meets all of them
alike; what is compared are medians over the rounds, or medians of the ratios within them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

Name = TypeVar("Name")
Measured = TypeVar("Measured")


def in_turns(
    contenders: Mapping[Name, Callable[[], Measured]],
    rounds: int,
    warm_up: int = 1,
    still_running: Callable[[Mapping[Name, list[Measured]]], Collection[Name]] | None = None,
) -> dict[Name, list[Measured]]:
    """What each contender returned in each round after the first `warm_up` ones.

    Args:
        rounds: how many are kept, at most.
        still_running: called with what was found so far after each round that is kept; names
            the contenders of the next one. None left ends the measurement.
    """
    found: dict[Name, list[Measured]] = {name: [] for name in contenders}
    running = list(contenders)
    for number in range(warm_up + rounds):
        for name in running:
            value = contenders[name]()
            if number >= warm_up:
                found[name].append(value)
        if still_running is not None and number >= warm_up:
            wanted = still_running(found)
            running = [name for name in running if name in wanted]
            if not running:
                break
    return found


def seconds(call: Callable[[], object], runs: int = 1, dropped: int = 0) -> list[float]:
    """The seconds of `runs` calls in a row, without the first `dropped`, which warm up."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[dropped:]


def median_ratio(numerators: Collection[float], denominators: Collection[float]) -> float:
    """The median of the ratios within the rounds, steadier than the ratio of the medians."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
