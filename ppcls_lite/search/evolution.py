"""Evolution under a budget: the candidates that score best among those that are fast enough.

Every generation draws neighbours and mixtures of the best so far; what is too slow is thrown away
before it costs a score. All numbers come from (seed, generation), so every rank and every
repetition draws alike. Read before: space.py. Read next: supernet.py (scores), run.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_lite.search.space import Candidate, Space, digest

Fast = Callable[[Sequence[Candidate], int], list[bool]]
Score = Callable[[Sequence[Candidate]], list[float]]
Kept = Callable[[int, Callable[[], list[Candidate]]], list[Candidate]]
PARENTS = 0.25  # share of the population that has children
_CHANGED = 0.1  # share of a child's slots that are drawn anew
_TRIES = 50  # candidates drawn for each that is wanted, at most


class Found:
    """Scored candidates, each once."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.candidates: dict[str, Candidate] = {}

    def add(self, candidates: Sequence[Candidate], scores: Sequence[float]) -> None:
        for candidate, score in zip(candidates, scores):
            name = digest(candidate)
            self.candidates[name], self.scores[name] = candidate, score

    def best(self, count: int) -> list[Candidate]:
        """The `count` best, best first; of equals the first that was found."""
        names = sorted(self.scores, key=lambda name: -self.scores[name])
        return [self.candidates[name] for name in names[:count]]


@dataclass(frozen=True)
class Sieve:
    """A cheap price: `keeps` is the share of what is drawn that is scored, the largest by it.

    What is drawn is `worth` measuring, which costs nothing; measured are the largest by the price,
    one after another, until enough of them are fast.
    price: candidates and what has been scored -> a number for each.
    needs: how many have to be scored before it says anything; till then all are.
    """

    price: Callable[[Sequence[Candidate], Found], list[float]]
    keeps: float
    worth: Fast
    needs: int = 0


def evolve(
    space: Space,
    fast: Fast,
    score: Score,
    *,
    population: int,
    generations: int,
    seed: int,
    start: Sequence[Candidate] = (),
    by_chance: bool = False,
    sieve: Sieve | None = None,
    kept: Kept = lambda generation, draw: draw(),
) -> Found:
    """All scored candidates, of which `best` are the answer; empty if none is fast enough.

    fast: which of some candidates keep to the budget; of more than the given number of such nobody
        asks.
    score: larger is better.
    start: candidates of the first generation, if they are fast enough.
    by_chance: draw every generation anew, to compare with at equal cost.
    sieve: what is drawn has to pass it; what `start` names is scored in any case.
    kept: gets a generation's number and what draws it; gives what it has drawn the first time, as
        `fast` may judge otherwise when more has been measured.
    """
    found = Found()

    def draw(generation: int) -> list[Candidate]:
        rng = np.random.default_rng((seed, generation))
        parents = found.best(max(2, round(PARENTS * population)))
        sifts = sieve is not None and len(found.scores) >= sieve.needs
        drawn = functools.partial(
            _drawn,
            space,
            rng=rng,
            first=start if generation == 0 else (),
            parents=() if by_chance else parents,
        )
        new: list[Candidate] = []
        if sifts:
            many = drawn(sieve.worth, {*found.scores}, count=round(population / sieve.keeps))
            if many:
                given = {digest(candidate) for candidate in start}
                many = _ordered(many, sieve.price(many, found), given)
            new = [one for one, good in zip(many, fast(many, population)) if good][:population]
        if len(new) < population:
            known = {*found.scores, *map(digest, new)}
            new += drawn(fast, known, count=population - len(new))
        return new

    for generation in range(generations):
        new = kept(generation, functools.partial(draw, generation))
        if not new:
            break
        found.add(new, score(new))
    return found


def _drawn(
    space: Space,
    fast: Fast,
    known: Collection[str],
    rng: np.random.Generator,
    count: int,
    first: Sequence[Candidate],
    parents: Sequence[Candidate],
) -> list[Candidate]:
    """`count` candidates that are fast enough, whose digests are not `known`; fewer where there
    are no more."""
    new: dict[str, Candidate] = {}
    first = [one for one in first if digest(one) not in known]
    if first:
        new = {digest(c): c for c, good in zip(first, fast(first, len(first))) if good}
    tried = 0
    while len(new) < count and tried < _TRIES * count:
        drawn: dict[str, Candidate] = {}
        for _ in range(4 * count):
            candidate = _child(space, parents, rng) if parents else near_budget(space, rng)
            name = digest(candidate)
            if name not in known and name not in new:
                drawn[name] = candidate
        tried += 4 * count
        kept = fast([*drawn.values()], count - len(new))
        for (name, candidate), good in zip(drawn.items(), kept):
            if good and len(new) < count:
                new[name] = candidate
    return [*new.values()]


def _ordered(
    drawn: Sequence[Candidate], prices: Sequence[float], given: Collection[str]
) -> list[Candidate]:
    """`drawn`, the largest by a sieve first; `given` before all."""
    scores = [
        math.inf if digest(candidate) in given else price for candidate, price in zip(drawn, prices)
    ]
    return [drawn[place] for place in sorted(range(len(drawn)), key=lambda place: -scores[place])]


def _child(space: Space, parents: Sequence[Candidate], rng: np.random.Generator) -> Candidate:
    one = parents[rng.integers(len(parents))]
    if rng.random() < 0.5:
        return space.changed(one, rng, _CHANGED)
    return space.mixed(one, parents[rng.integers(len(parents))], rng)


def near_budget(space: Space, rng: np.random.Generator) -> Candidate:
    """Any candidate, drawn so that small and large ones are as likely as those between.

    Slots that are drawn evenly all give networks of the same middle cost. Each candidate draws its
    own leaning towards the first or the last options.
    """
    lean = rng.random()
    chosen = {}
    for name, options in space.slots.items():
        place = rng.binomial(len(options) - 1, lean) if len(options) > 1 else 0
        chosen[name] = options[place]
    return space.canonical(chosen)
