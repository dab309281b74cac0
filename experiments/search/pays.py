"""What pays, over many searches: the mean score of candidates by what they have.

Reads the journals of searches of one space (`experiments.search.prove` leaves some), and takes each
candidate's score as points above the mean of its search, since folds and sizes of images differ.

    python -m experiments.search.pays output/prove_search --slots kernel attention
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.search.prove import SPACES
from ppcls_lite.config.check import build
from ppcls_lite.errors import UserError
from ppcls_lite.search.choices import Choice, choices
from ppcls_lite.search.journal import NAME, read
from ppcls_lite.search.space import Candidate

_FEWEST = 6  # scored candidates of a search whose mean says something


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    options = _parser().parse_args(argv)
    candidates: list[Candidate] = []
    points: list[float] = []
    files = sorted(file for folder in options.folders for file in folder.rglob(NAME))
    for file in files:
        found = scored(file)
        if len(found) < _FEWEST:
            continue
        middle = statistics.mean(score for _, score in found)
        candidates += [candidate for candidate, _ in found]
        points += [100 * (score - middle) for _, score in found]
    if not candidates:
        raise UserError(f"no search with {_FEWEST} scored candidates in {len(files)} journals")
    space = build(SPACES[options.space], "space")
    try:
        found = choices(space, candidates, points)
    except KeyError as error:
        raise UserError(f"a search of another space: it has no slot {error}") from None
    shown = [choice for choice in found if choice.slot.startswith(tuple(options.slots))]
    print("\n".join(table(shown, len(points))))
    return 0


def scored(file: Path) -> list[tuple[Candidate, float]]:
    """The candidates of a journal whose scores are known."""
    values, _ = read(file)
    scores = {key: value for (kind, key), value in values.items() if kind == "score"}
    measured = ((values.get(("whole", key)), score) for key, score in scores.items())
    return [(entry["candidate"], score) for entry, score in measured if entry]


def table(found: Sequence[Choice], count: int) -> list[str]:
    """A line for each choice, the surest first; points above the mean of the search."""
    lines = [f"{count} candidates", "", "| choice | option: points (candidates) | gap | s.e. |"]
    lines.append("|---|---|---:|---:|")
    for choice in found:
        means = ", ".join(f"{option}: {mean:+.1f} ({n})" for option, mean, n in choice.means)
        lines.append(f"| {choice.slot} | {means} | {choice.gap:.1f} | {choice.error:.1f} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="where searches lie, at any depth")
    parser.add_argument("--space", default="default", choices=sorted(SPACES), help="of all")
    parser.add_argument("--slots", nargs="+", default=[""], help="beginnings of names to show")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
