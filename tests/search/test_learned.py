"""What scored candidates teach about others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.search.evolution import Found, Sieve, evolve
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.learned import Learned, described, earlier
from ppcls_lite.search.report import kendall
from ppcls_lite.search.space import Candidate, digest

SPACE = build({"name": "PPLCNetSpace"}, "space")


def fast(candidates: Sequence[Candidate], count: int) -> list[bool]:
    return [True] * len(candidates)


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
        options = {"population": 6, "generations": 4, "seed": seed, "by_chance": True}
        return max(evolve(SPACE, fast, scored, sieve=sieve, **options).scores.values())

    learner = Learned(SPACE, World())
    learned = Sieve(learner, 0.25, fast, learner.needs)
    gains = [best(learned, seed) - best(None, seed) for seed in range(8)]
    assert np.mean(gains) > 0.05 and set(asked) == {6}  # as many scores


def test_other_searches_teach_before_anything_is_scored() -> None:
    """Their scores may be of other images: each search's mean and spread are its own."""
    rng = np.random.default_rng(0)
    drawn = [SPACE.draw(rng) for _ in range(60)]
    searches = [[(c, score(c)) for c in drawn[:15]], [(c, 7 + 90 * score(c)) for c in drawn[15:30]]]
    learned, nothing = Learned(SPACE, World(), searches), Found()
    assert learned.needs == 0 and Learned(SPACE, World()).needs == 4
    expected = learned(drawn[30:], nothing)
    assert kendall(expected, [score(c) for c in drawn[30:]]) > 0.5
    alike = [searches[0], [(c, score(c)) for c in drawn[15:30]]]
    assert expected == pytest.approx(Learned(SPACE, World(), alike)(drawn[30:], nothing))
    own = Found()
    own.add(drawn[:10], [-score(c) for c in drawn[:10]])  # this search's say counts, too
    assert learned(drawn[30:], own) != pytest.approx(expected, rel=0.1)


def test_evolution_asks_it_from_the_first_generation_on() -> None:
    rng = np.random.default_rng(0)
    before = [(c, score(c)) for c in (SPACE.draw(rng) for _ in range(30))]
    learner = Learned(SPACE, World(), [before])
    first = []
    for sieve in (None, Sieve(learner, 0.1, fast, learner.needs)):
        scored = lambda candidates: [score(one) for one in candidates]  # noqa: E731
        options = {"population": 6, "generations": 1, "seed": 0}
        found = evolve(SPACE, fast, scored, sieve=sieve, **options)
        first.append(np.mean([*found.scores.values()]))
        assert len(found.scores) == 6
    assert first[1] > first[0] + 0.2


def kept(folder: Path, candidates: Sequence[Candidate]) -> str:
    """A journal as a search leaves it; the last candidate is known from its generation only."""
    folder.mkdir()
    journal = Journal(folder, {"target": 1.0})
    journal.put("generation", "0", [*candidates[-1:]])
    for candidate in candidates:
        if candidate is not candidates[-1]:
            journal.put("whole", digest(candidate), {"candidate": candidate, "ms": 1.0})
        journal.put("score", digest(candidate), score(candidate))
    journal.put("score", "of something never drawn", 1.0)
    return str(folder)


def test_what_other_searches_have_scored_is_in_their_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [SPACE.draw(rng) for _ in range(6)]
    foreign = {**drawn[0], "stem": "wide"}
    folder = kept(tmp_path / "search", [foreign, *drawn])
    assert earlier(SPACE, [folder]) == [[(c, score(c)) for c in drawn]]
    assert earlier(SPACE, []) == []
    wider = build({"name": "PPLCNetSpace", "widths": [[16, 32, 64, 128, 1024]] * 5}, "space")
    (known,) = earlier(wider, [folder])  # whose widths are others
    assert len(known) == 6
    places = [described(wider, {**drawn[0], "width6": n})["width6"] for n in (8, 32, 48, 576, 2000)]
    assert places == pytest.approx([0, 0.25, 0.375, 0.875, 1])
    few = kept(tmp_path / "few", [foreign, *drawn[:3]])
    with pytest.raises(UserError, match="4 scored candidates, of which 3 have this space's"):
        earlier(SPACE, [folder, few])
    with pytest.raises(UserError, match=r"learn_from: .*nothing: has no journal.jsonl"):
        earlier(SPACE, [str(tmp_path / "nothing")])
