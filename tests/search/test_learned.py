"""What scored candidates teach about others."""

from collections.abc import Sequence

import numpy as np
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.engine.distributed import World
from ppcls_lite.search.evolution import Found, Sieve, evolve
from ppcls_lite.search.learned import NEEDS, Learned, described
from ppcls_lite.search.report import kendall
from ppcls_lite.search.space import Candidate

SPACE = build({"name": "PPLCNetSpace"}, "space")


def score(candidate: Candidate) -> float:
    """Wide last stages and few blocks in the fifth are good, whatever else is chosen."""
    return candidate["width6"] / 512 - 0.2 * candidate["depth5"]


def test_a_candidate_is_described_by_kinds_of_choices() -> None:
    one = SPACE.canonical(SPACE.smallest() | {"depth5": 3, "kernel5.0": 5, "width6": 512})
    found = described(SPACE, one)
    assert found["kernel5"] == pytest.approx(1 / 3)  # of its three blocks
    assert found["width6"] == 1.0 and found["depth5"] == 0.5 and found["stem"] == 0.0
    assert [*found] == [*described(SPACE, SPACE.largest())]
    small = build({"name": "PPLCNetSpace", "depths": [[1]] * 5, "kernels": [3]}, "space")
    assert "depth5" not in described(small, small.smallest())  # there is nothing to choose


def test_a_few_scores_order_others() -> None:
    rng, found = np.random.default_rng(0), Found()
    drawn = [SPACE.draw(rng) for _ in range(60)]
    found.add(drawn[:20], [score(c) + rng.normal() * 0.02 for c in drawn[:20]])
    expected = Learned(SPACE, World())(drawn[20:], found)
    assert kendall(expected, [score(c) for c in drawn[20:]]) > 0.5
    same = Found()
    same.add(drawn[:5], [1.0] * 5)
    assert Learned(SPACE, World())(drawn[5:8], same) == [0.0] * 3


def test_evolution_behind_it_finds_better_ones() -> None:
    asked: list[int] = []

    def scored(candidates: Sequence[Candidate]) -> list[float]:
        asked.append(len(candidates))
        return [score(candidate) for candidate in candidates]

    def best(sieve: Sieve | None, seed: int) -> float:
        fast = lambda candidates, count: [True] * len(candidates)  # noqa: E731
        options = {"population": 6, "generations": 4, "seed": seed, "by_chance": True}
        return max(evolve(SPACE, fast, scored, sieve=sieve, **options).scores.values())

    learned = Sieve(Learned(SPACE, World()), 0.25, NEEDS)
    gains = [best(learned, seed) - best(None, seed) for seed in range(8)]
    assert np.mean(gains) > 0.05 and set(asked) == {6}  # as many scores
