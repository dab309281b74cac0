"""Evolution under a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ppcls_lite.search.evolution import Fast, Found, evolve
from ppcls_lite.search.pplcnet_space import PPLCNetSpace
from ppcls_lite.search.space import Candidate, digest

SPACE = PPLCNetSpace(widths=[[8, 16, 24, 32]] * 5)


def cost(candidate: Candidate) -> int:
    return sum(candidate[f"width{stage}"] for stage in range(2, 7))


def fast(candidates: Sequence[Candidate], count: int) -> list[bool]:
    assert 0 < count <= 12
    return [cost(candidate) <= 80 for candidate in candidates]


def worth(candidates: Sequence[Candidate]) -> list[float]:
    """Late width, large kernels and the largest head are good."""
    return [
        c["width6"] + 0.2 * c["width2"] + 3 * (c["kernel6.0"] == 5) + c["expand"] / 100
        for c in candidates
    ]


def run(**changes: object) -> Found:
    asked = {"population": 12, "generations": 6, "seed": 0, **changes}
    return evolve(SPACE, fast, worth, **asked)


def test_it_finds_more_than_chance_and_keeps_to_the_budget() -> None:
    found, chance = run(), run(by_chance=True)
    best, lucky = (max(f.scores.values()) for f in (found, chance))
    assert best > lucky and all(cost(c) <= 80 for c in found.candidates.values())
    assert found.best(1)[0]["width6"] == 32
    assert len(found.scores) == len(chance.scores) == 72


def test_the_seed_decides() -> None:
    first, again, other = run(), run(), run(seed=1)
    assert list(first.scores) == list(again.scores) != list(other.scores)


def test_where_to_start_and_a_budget_that_nobody_meets() -> None:
    start = [SPACE.smallest(), SPACE.largest()]
    found = run(generations=1, start=start)
    assert digest(start[0]) in found.scores and digest(start[1]) not in found.scores
    none = evolve(
        SPACE, lambda c, count: [False] * len(c), worth, population=4, generations=3, seed=0
    )
    assert none.scores == {}


def test_a_space_of_few_candidates_ends_early() -> None:
    small = PPLCNetSpace([8], [[8]] * 5, [[1]] * 5, [3], "tail", [32, 64])
    found = evolve(
        small, lambda c, count: [True] * len(c), worth, population=9, generations=9, seed=0
    )
    assert len(found.scores) == 2


def test_generations_that_are_kept_are_not_drawn_again() -> None:
    """A search that goes on has measured more, so what is fast enough may be others."""
    space = PPLCNetSpace()
    memory: dict[int, list[Candidate]] = {}

    def kept(generation: int, draw: Callable[[], list[Candidate]]) -> list[Candidate]:
        if generation not in memory:
            memory[generation] = draw()
        return memory[generation]

    def found(fast: Fast) -> list[str]:
        options = {"population": 4, "generations": 3, "seed": 1, "kept": kept}
        score = lambda candidates: [float(c["width6"]) for c in candidates]  # noqa: E731
        return [*evolve(space, fast, score, **options).scores]

    first = found(lambda candidates, count: [c["stem"] == 8 for c in candidates])
    assert len(first) == 12
    assert found(lambda candidates, count: [c["stem"] == 16 for c in candidates]) == first
    del memory[2]
    other = found(lambda candidates, count: [c["stem"] == 16 for c in candidates])
    assert other[:8] == first[:8] and not {*other[8:]} & {*first}
