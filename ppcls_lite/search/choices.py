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

    def row(self, mean_form: str, gap_form: str) -> str:
        """A line of a table, with numbers in these formats."""
        means = ", ".join(f"{o}: {mean:{mean_form}} ({count})" for o, mean, count in self.means)
        return f"| {self.slot} | {means} | {self.gap:{gap_form}} | {self.error:{gap_form}} |"


def choices(space: Space, candidates: Sequence[Candidate], scores: Sequence[float]) -> list[Choice]:
    """Of all slots with two options that enough candidates have, the surest first.

    Candidates to whom a slot does not matter, as the kernel of a block that they lack, are left
    out of its means.
    """
    found = []
    for slot, options in space.slots.items():
        groups: list[list[float]] = [[] for _ in options]  # an option may be a list
        for candidate, score in zip(candidates, scores):
            if space.matters(candidate, slot):
                groups[options.index(candidate[slot])].append(score)
        kept = [(option, own) for option, own in zip(options, groups) if len(own) >= _FEWEST]
        if len(kept) < 2:
            continue
        means = [(option, statistics.mean(own), len(own)) for option, own in kept]
        order = sorted(range(len(kept)), key=lambda place: means[place][1])
        worst, best = order[0], order[-1]
        spread = [statistics.variance(kept[end][1]) / means[end][2] for end in (worst, best)]
        gap = means[best][1] - means[worst][1]
        found.append(Choice(slot, means, gap, math.sqrt(sum(spread))))
    return sorted(found, key=lambda choice: -choice.surety)
