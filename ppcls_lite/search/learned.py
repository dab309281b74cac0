"""What scored candidates teach about others: a straight line through their scores.

Each kind of choice is one number, the mean place of what was chosen among its options, so that a
dozen scores are enough for an order that is better than none (docs/search.md).
Read before: space.py, evolution.py. Read next: run.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppcls_lite.engine.distributed import World
from ppcls_lite.search.evolution import Found
from ppcls_lite.search.space import Candidate, Space

LEARNED = "learned"  # the sieve's name
NEEDS = 4  # scored candidates
_RIDGE = 10.0  # what holds slopes down, in candidates


class Learned:
    """Expects scores of candidates by those of others.

    Rank 0 computes for all ranks, which then draw alike.
    """

    def __init__(self, space: Space, world: World) -> None:
        self.space, self.world = space, world

    def __call__(self, candidates: Sequence[Candidate], found: Found) -> list[float]:
        """What each may score, by the candidates in `found`."""
        return self.world.from_main(lambda: self._expected(candidates, found))

    def _expected(self, candidates: Sequence[Candidate], found: Found) -> list[float]:
        known = self._described([*found.candidates.values()])  # (M, K)
        scores = np.array([*found.scores.values()])  # (M,)
        middle, spread = known.mean(0), known.std(0)
        spread[spread == 0] = 1.0
        known = (known - middle) / spread
        slopes = np.linalg.solve(
            known.T @ known + _RIDGE * np.eye(known.shape[1]), known.T @ (scores - scores.mean())
        )
        return (((self._described(candidates) - middle) / spread) @ slopes).tolist()

    def _described(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """(M, K): of each candidate, for each kind of choice, the mean place from 0 to 1."""
        return np.array([[*described(self.space, one).values()] for one in candidates])


def described(space: Space, candidate: Candidate) -> dict[str, float]:
    """By kind of choice, where the candidate's options are in their lists: 0 first, 1 last.

    Slots `NAME.NUMBER` are one kind, of which the mean over the slots that matter to the candidate
    counts; 0.5 where none does.
    """
    places: dict[str, list[float]] = {}
    for slot, options in space.slots.items():
        if len(options) > 1:
            own = places.setdefault(slot.split(".")[0], [])
            if space.matters(candidate, slot):
                own.append(options.index(candidate[slot]) / (len(options) - 1))
    return {kind: float(np.mean(own)) if own else 0.5 for kind, own in places.items()}
