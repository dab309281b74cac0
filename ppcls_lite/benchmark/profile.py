"""Where the time of a run goes: oneDNN's primitives by kind, and everything else.

With `ONEDNN_VERBOSE=1` oneDNN writes a line for each primitive that it has run, with its time
("Verbose Mode" in its documentation). worker.py writes a mark before each run and at the end of a
turn. Read next: turns.py.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_lite.benchmark.worker import END, MARK
from ppcls_lite.errors import UserError


class Primitive(NamedTuple):
    """One executed primitive: its kind ("convolution"), implementation, problem and ms."""

    kind: str
    implementation: str
    problem: str
    ms: float


def parse_line(line: str) -> Primitive | None:
    """The primitive of one line of oneDNN 2 or 3; `None` for any other line."""
    words = line.strip().split(",")
    if words[0] not in ("onednn_verbose", "dnnl_verbose"):
        return None
    words = [word for word in words[1:] if word not in ("v1", "primitive")]
    if len(words) < 5 or not words[0].startswith("exec"):
        return None  # exec, or exec:something; create lines and information are left out
    try:
        ms = float(words[-1])
    except ValueError:
        return None
    return Primitive(words[2], words[3], words[-2], ms)


def read(log: Path) -> list[list[Primitive]]:
    """The primitives of each run, from its mark to the next or to the end of its turn."""
    runs: list[list[Primitive]] = []
    current: list[Primitive] | None = None
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith((MARK, END)):
                if current is not None:
                    runs.append(current)
                current = [] if line.startswith(MARK) else None  # warm-up follows an end
            elif current is not None and (primitive := parse_line(line)):
                current.append(primitive)
    if not any(runs):
        raise UserError(
            f"{log}: oneDNN wrote no line for any primitive; this build of Paddle cannot be "
            "profiled, leave out --profile"
        )
    return runs


class Profile:
    """The runs of one contender with oneDNN's lines, over all rounds."""

    def __init__(self) -> None:
        self.walls: list[float] = []  # ms of each run by the clock, lines being written meanwhile
        self.sums: list[float] = []  # ms of its primitives
        self.kinds: dict[str, list[float]] = defaultdict(list)  # per kind the ms in each run
        self.counts: dict[str, int] = {}  # per kind how many there are in a run
        self.slowest: dict[tuple[str, ...], list[float]] = defaultdict(list)  # ms of each execution

    def add(self, runs: Sequence[Sequence[Primitive]], walls: Sequence[float]) -> None:
        """Add the runs of one turn and their times by the clock."""
        if len(runs) != len(walls):
            raise UserError(
                f"oneDNN's lines tell of {len(runs)} runs, {len(walls)} were made; is another "
                "variable, like ONEDNN_VERBOSE in the environment, mixing lines in?"
            )
        self.walls += walls
        for run in runs:
            by_kind: dict[str, list[float]] = defaultdict(list)
            for primitive in run:
                by_kind[primitive.kind].append(primitive.ms)
                self.slowest[primitive[:3]].append(primitive.ms)
            self.sums.append(sum(map(sum, by_kind.values())))
            for kind, times in by_kind.items():
                self.kinds[kind].append(sum(times))
                self.counts[kind] = len(times)

    def rows(self) -> list[tuple[str, int, float, float]]:
        """(kind, primitives in a run, median ms, share of the sum), the largest first."""
        total = statistics.median(self.sums)
        found = [
            (kind, self.counts[kind], statistics.median(times), statistics.median(times) / total)
            for kind, times in self.kinds.items()
        ]
        return sorted(found, key=lambda row: -row[2])

    def top(self, count: int = 5) -> list[tuple[str, str, str, float]]:
        """The primitives that take longest: kind, implementation, problem, median ms."""
        medians = [(*key, statistics.median(times)) for key, times in self.slowest.items()]
        return sorted(medians, key=lambda row: -row[3])[:count]

    def as_dict(self) -> dict[str, Any]:
        return {
            "primitives_ms": statistics.median(self.sums),
            "profiled_run_ms": statistics.median(self.walls),
            "kinds": [dict(zip(("kind", "count", "ms", "share"), row)) for row in self.rows()],
            "slowest": [dict(zip(Primitive._fields, row)) for row in self.top(10)],
        }
