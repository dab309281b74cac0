"""What pays, over many searches: the mean score of candidates by what they have.

Reads the journals of searches of one space (`experiments.search.prove` leaves some), and takes each
candidate's score as points above the mean of its search, since folds and sizes of images differ.
The last lines say how well scores are expected from those of others, by `Search.sieve: learned`.

    python -m experiments.search.pays output/prove_search --slots kernel attention
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.search.prove import SPACES
from ppcls_lite.cli import guarded
from ppcls_lite.config.check import build
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.search.choices import Choice, choices
from ppcls_lite.search.evolution import Found
from ppcls_lite.search.journal import NAME, read, scored
from ppcls_lite.search.learned import Learned
from ppcls_lite.search.report import kendall
from ppcls_lite.search.space import Scored, Space

_FEWEST = 6  # scored candidates of a search whose mean says something
_WAYS = 20  # to halve a search


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    options = _parser().parse_args(argv)
    searches: list[list[Scored]] = []
    files = sorted(file for folder in options.folders for file in folder.rglob(NAME))
    for file in files:
        found = scored(read(file)[0])
        if len(found) < _FEWEST:
            continue
        middle = statistics.mean(score for _, score in found)
        searches.append([(candidate, 100 * (score - middle)) for candidate, score in found])
    if not searches:
        raise UserError(f"no search with {_FEWEST} scored candidates in {len(files)} journals")
    space = build(SPACES[options.space], "space")
    every = [one for search in searches for one in search]
    try:
        found = choices(space, *zip(*every))
    except KeyError as error:
        raise UserError(f"a search of another space: it has no slot {error}") from None
    shown = [choice for choice in found if choice.slot.startswith(tuple(options.slots))]
    print("\n".join([*table(shown, len(every)), "", *expectations(space, searches)]))
    return 0


def expectations(space: Space, searches: Sequence[Sequence[Scored]]) -> list[str]:
    """Kendall's tau of expected and found scores, mean over the searches: learned from all others,
    and from one half of the search, over twenty ways to halve it."""
    others, halves = [], []
    rng = np.random.default_rng(0)
    for number, search in enumerate(searches):
        rest = [other for place, other in enumerate(searches) if place != number]
        if rest:
            others.append(_tau(Learned(space, World(), rest), search))
        if len(search) >= 2 * _FEWEST:
            for _ in range(_WAYS):
                mixed = [search[place] for place in rng.permutation(len(search))]
                half = len(mixed) // 2
                halves.append(_tau(Learned(space, World(), [mixed[:half]]), mixed[half:]))
    named = {"all others": others, "half of its own": halves}
    return [
        f"scores learned from {name}: Kendall's tau {statistics.mean(found):.2f}"
        for name, found in named.items()
        if found
    ]


def _tau(learned: Learned, asked: Sequence[Scored]) -> float:
    candidates, points = zip(*asked)
    return kendall(learned(candidates, Found()), points) or 0.0


def table(found: Sequence[Choice], count: int) -> list[str]:
    """A line for each choice, the surest first; points above the mean of the search."""
    lines = [f"{count} candidates", "", "| choice | option: points (candidates) | gap | s.e. |"]
    lines.append("|---|---|---:|---:|")
    return lines + [choice.row("+.1f", ".1f") for choice in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="where searches lie, at any depth")
    parser.add_argument("--space", default="default", choices=sorted(SPACES), help="of all")
    parser.add_argument("--slots", nargs="+", default=[""], help="beginnings of names to show")
    return parser


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
