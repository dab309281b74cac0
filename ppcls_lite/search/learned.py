"""What scored candidates teach about others: a straight line through their scores.

Each kind of choice is one number, the mean place of what was chosen among its options, so that a
dozen scores are enough for an order that is better than none (docs/search.md).
Read before: space.py, evolution.py, journal.py. Read next: run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.search.evolution import Found
from ppcls_lite.search.journal import NAME, read, scored
from ppcls_lite.search.space import Candidate, Scored, Space

LEARNED = "learned"  # the sieve's name
_NEEDS = 4  # scored candidates of a search
_RIDGE = 10.0  # what holds slopes down, in candidates


class Learned:
    """Expects scores of candidates by those of others.

    Rank 0 computes for all ranks, which then draw alike.
    earlier: of other searches, each with a mean and a spread of its own, since their images and
        the length of their trainings may be others.
    """

    def __init__(
        self, space: Space, world: World, earlier: Sequence[Sequence[Scored]] = ()
    ) -> None:
        self.space, self.world, self.earlier = space, world, earlier

    @property
    def needs(self) -> int:
        """How many candidates have to be scored before it says anything."""
        return 0 if self.earlier else _NEEDS

    def __call__(self, candidates: Sequence[Candidate], found: Found) -> list[float]:
        """What each may score, by the candidates in `found` and in earlier searches.

        In standard deviations of a search's scores, from any zero.
        """
        return self.world.from_main(lambda: self._expected(candidates, found))

    def _expected(self, candidates: Sequence[Candidate], found: Found) -> list[float]:
        own = [*zip(found.candidates.values(), found.scores.values())]
        known, scores = [], []
        for search in (*self.earlier, own):
            if len(search) >= _NEEDS:
                members, values = zip(*search)
                places = self._described(members)
                known.append(places - places.mean(0))
                centred = np.array(values) - np.mean(values)
                scores.append(centred / (centred.std() or 1.0))
        table, wanted = np.concatenate(known), np.concatenate(scores)  # (M, K), (M,)
        spread = table.std(0)
        spread[spread == 0] = 1.0
        table = table / spread
        slopes = np.linalg.solve(
            table.T @ table + _RIDGE * np.eye(table.shape[1]), table.T @ wanted
        )
        return (self._described(candidates) / spread @ slopes).tolist()

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
                own.append(_place(candidate[slot], options))
    return {kind: float(np.mean(own)) if own else 0.5 for kind, own in places.items()}


def _place(option: Any, options: Sequence[Any]) -> float:
    """Where it is in the list, from 0 to 1; a number that is not in it, between its neighbours."""
    if option in options:
        return options.index(option) / (len(options) - 1)
    return float(np.interp(option, options, np.linspace(0, 1, len(options))))


def earlier(space: Space, folders: Sequence[str]) -> list[list[Scored]]:
    """What searches in `folders` have scored, without candidates whose slots `space` has not.

    Numbers (widths, ...) may be others than those to choose from here.

    Raises UserError for a folder that has too little to learn from.
    """
    searches = []
    for folder in folders:
        file = Path(folder) / NAME
        if not file.is_file():
            raise UserError(
                f"Search.learn_from: {folder}: has no {NAME}; name the --output folder of a search"
            )
        every = scored(read(file)[0])
        known = [one for one in every if _is_of(space, one[0])]
        if len(known) < _NEEDS:
            raise UserError(
                f"Search.learn_from: {folder}: {len(every)} scored candidates, of which "
                f"{len(known)} have this space's slots and options; expected {_NEEDS} at least"
            )
        searches.append(known)
    return searches


def _is_of(space: Space, candidate: Candidate) -> bool:
    def stands_for(option: Any, options: Sequence[Any]) -> bool:
        return option in options or all(isinstance(one, int | float) for one in (option, *options))

    return candidate.keys() == space.slots.keys() and all(
        stands_for(candidate[slot], options) for slot, options in space.slots.items()
    )
