"""What scored candidates say of each choice: the mean score of those that have an option.

Read before: space.py, evolution.py. Read next: report.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ppcls_lite.search.space import Candidate, Space

_FEWEST = 3  # candidates with an option, or it says nothing


@dataclass(frozen=True)
class Choice:
    """What a slot's options are worth: `means` has option, mean score and candidates of each.

    gap: between the best and the worst mean. error: its standard error.
    """

    slot: str
    means: Sequence[tuple[Any, float, int]]
    gap: float
    error: float

    @property
    def surety(self) -> float:
        """How many standard errors the gap has."""
        if not self.gap:
            return 0.0
        return self.gap / self.error if self.error else math.inf


def choices(space: Space, candidates: Sequence[Candidate], scores: Sequence[float]) -> list[Choice]:
    """Of all slots with two options that enough candidates have, the surest first.

    Candidates to whom a slot does not matter, as the kernel of a block that they lack, are left
    out of its means.
    """
    found = []
    for slot, options in space.slots.items():
        groups: dict[Any, list[float]] = {option: [] for option in options}
        for candidate, score in zip(candidates, scores):
            if space.matters(candidate, slot):
                groups[candidate[slot]].append(score)
        groups = {option: own for option, own in groups.items() if len(own) >= _FEWEST}
        if len(groups) < 2:
            continue
        means = [(option, statistics.mean(own), len(own)) for option, own in groups.items()]
        ends = [max(means, key=lambda one: one[1]), min(means, key=lambda one: one[1])]
        spread = [statistics.variance(groups[option]) / count for option, _, count in ends]
        found.append(Choice(slot, means, ends[0][1] - ends[1][1], math.sqrt(sum(spread))))
    return sorted(found, key=lambda choice: -choice.surety)
