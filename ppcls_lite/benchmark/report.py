"""What a latency measurement says, as text, Markdown and JSON. Read next: cli.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ppcls_lite.benchmark.machine import Machine
from ppcls_lite.benchmark.models import Job
from ppcls_lite.benchmark.profile import Profile
from ppcls_lite.benchmark.result import PRIMITIVES, UNSTEADY, Result, aims, quantile
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.system.files import write_text

Rows = list[list[str]]
_WRONG = 1e-3  # relative difference of fp32 outputs between engines
_HOW = (
    "A ratio is the median of the rounds (lowest to highest); quiet: of the 10th percentiles of "
    "all runs, by which unsteady contenders are judged."
)
_COLUMNS = (
    "MiB: growth of the process by this network, after the import of the library; ready: until the "
    "first answer to the first batch size; new shape: the first run with this batch size; differs: "
    "from the first engine's outputs, relative to the largest."
)


class Section(NamedTuple):
    """A part of the report: heading, table, and a line of text below it."""

    title: str
    rows: Rows
    text: str = ""


class Comparison(Protocol):
    """Published latencies beside those measured here (experiments/latency/paper.py)."""

    option: str  # the help of `--paper`
    kinds: Sequence[str]  # the values of `--paper`, the default first
    job: (
        Job | None
    )  # what the networks are exported for; None: images of --image-size, 1000 classes

    def of(self, kind: str) -> Comparison:
        """That of one kind."""

    def names(self) -> list[str]:
        """The networks of the zoo that it is about."""

    def sections(self, results: Sequence[Result]) -> list[Section]:
        """What the report shows."""

    def as_dict(self, results: Sequence[Result]) -> dict[str, Any]:
        """The same for the JSON file."""

    def write(self, results: Sequence[Result], folder: Path) -> list[Path]:
        """Write files of its own, as a figure."""


@dataclass
class Report:
    """All that one run found; `comparison` and `budget_ms` say which parts are wanted."""

    machine: Machine
    command: str
    results: list[Result]
    profiles: Mapping[tuple[str, int, int], Profile] = field(default_factory=dict)
    comparison: Comparison | None = None
    budget_ms: float | None = None
    notes: Sequence[str] = ()

    @property
    def timed(self) -> list[Result]:
        """The results by the clock, without oneDNN's sums."""
        return [r for r in self.results if r.setting.engine != PRIMITIVES]

    def warnings(self) -> list[str]:
        """Why the figures may be off."""
        found = self.machine.warnings(max(r.setting.threads for r in self.results))
        shaky = [r for r in self.timed if max(r.spread, r.drift) > UNSTEADY]
        if shaky:
            worst = max(shaky, key=lambda r: max(r.spread, r.drift))
            found.append(
                f"{len(shaky)} of {len(self.timed)} contenders are unsteady (spread or drift above "
                f"{UNSTEADY:.0%}); the worst, {worst.model} with {worst.setting}: spread "
                f"{worst.spread:.0%}, drift {worst.drift:.0%}"
            )
        disturbed = sum(r.disturbed for r in self.timed)
        if disturbed:
            found.append(f"another process had the core during {disturbed} contenders' turns")
        found += [
            f"{r.model} with {r.setting}: outputs differ by {r.difference:.1e} from the first "
            "engine's; its speed is of no use"
            for r in self.timed
            if r.setting.precision == "fp32" and (r.difference or 0) > _WRONG
        ]
        return found

    def write(self, folder: Path) -> list[Path]:
        """Write latency.json, latency.md and what the comparison writes."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {
            folder / "latency.json": json.dumps(self.as_dict(), indent=1),
            folder / "latency.md": self.render(markdown),
        }
        for path, content in contents.items():
            write_text(path, content + "\n")
        more = self.comparison.write(self.timed, folder) if self.comparison else []
        return [*contents, *more]

    def as_dict(self) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "command": self.command,
            "machine": asdict(self.machine),
            "warnings": self.warnings(),
            "notes": list(self.notes),
            "results": [r.as_dict() for r in self.results],
            "ratios": [aim.as_dict() for aim in aims(self.results)],
            "profiles": [
                {"model": model, "threads": threads, "batch_size": size, **profile.as_dict()}
                for (model, threads, size), profile in self.profiles.items()
            ],
        }
        if self.comparison:
            tree |= self.comparison.as_dict(self.timed)
        if self.budget_ms is not None:
            fit, _ = within_budget(self.timed, self.budget_ms)
            tree["budget"] = {"ms": self.budget_ms, "fit": [r.model for r in fit]}
        return tree

    def render(self, table: Any) -> str:
        """The whole report; `table` is `text` or `markdown`."""
        heading = "### {}".format if table is markdown else "{}".format
        parts = [f"`{self.command}`" if table is markdown else self.command]
        parts.append(f"```\n{self.machine}\n```" if table is markdown else str(self.machine))
        parts += [f"note: {note}" for note in self.notes]
        if not self.comparison and self.budget_ms is None:
            parts += [heading("Latency"), table(_latency_rows(self.results)), _COLUMNS]
        if rows := _ratio_rows(self.results):
            parts += [heading("Ratios"), table(rows), _HOW]
        for title, rows, line in self.comparison.sections(self.timed) if self.comparison else ():
            parts += [heading(title), table(rows), *([line] if line else [])]
        if self.budget_ms is not None:
            parts.append(heading(f"Networks within {self.budget_ms:g} ms"))
            parts += _budget(self.timed, self.budget_ms, table)
        for model, threads, size in sorted(self.profiles):
            profile = self.profiles[model, threads, size]
            parts.append(heading(f"Profile of {model}: {threads} thread(s), batch {size}"))
            parts += _profile(profile, table)
        parts += [f"WARNING: {warning}" for warning in self.warnings()]
        return "\n\n".join(parts)


def _latency_rows(results: Sequence[Result]) -> Rows:
    heads = ["Model", "Engine", "Threads", "Batch", "median ms", "p10", "p99", "spread"]
    rows = [[*heads, "images/s", "MiB", "library MiB", "ready s", "new shape ms", "differs"]]
    for r in results:
        sums = r.setting.engine == PRIMITIVES
        differs = "-" if r.difference is None or sums else f"{r.difference:.0e}"
        name = r.setting.name + (f" ({r.chosen})" if r.setting.engine == "auto" else "")
        times = (r.median, quantile(r.times, 0.1), quantile(r.times, 0.99))
        rows.append(
            [
                *(r.model, name, str(r.setting.threads), str(r.batch_size)),
                *(f"{ms:.3f}" for ms in times),
                f"{r.spread:.0%}",
                *(["-"] * 5 if sums else _costs(r)),
                differs,
            ]
        )
    return rows


def _costs(result: Result) -> list[str]:
    rate = 1000 * result.batch_size / result.median
    memory = [f"{result.memory_mib:.0f}", f"{result.library_mib:.0f}"]
    return [f"{rate:.0f}", *memory, f"{result.load_s:.2f}", f"{result.first_ms:.1f}"]


def _ratio_rows(results: Sequence[Result]) -> Rows:
    rows = [["Ratio", "Model", "Threads", "Batch", "measured", "aim", ""]]
    for aim in aims(results):
        limit = "-" if aim.limit is None else f"<= {aim.limit:g}"
        met = {None: "", True: "met", False: "missed"}[aim.met]
        place = [aim.one.model, str(aim.one.setting.threads), str(aim.one.batch_size)]
        rows.append([aim.text, *place, str(aim.ratio), limit, met])
    return rows if len(rows) > 1 else []


def within_budget(
    results: Sequence[Result], milliseconds: float
) -> tuple[list[Result], list[Result]]:
    """The fastest contender of each model; (those that fit, best accuracy first; the others).

    Models without a published accuracy come last, the fastest first.
    """
    best: dict[str, Result] = {}
    for result in results:
        if result.model not in best or result.median < best[result.model].median:
            best[result.model] = result
    ordered = sorted(best.values(), key=lambda r: (-(_accuracy(r.model) or 0), r.median))
    fit = [r for r in ordered if r.median <= milliseconds]
    return fit, [r for r in ordered if r.median > milliseconds]


def _accuracy(model: str) -> float | None:
    entry = ZOO.get(model)
    return entry and entry.accuracy


def _budget(results: Sequence[Result], milliseconds: float, table: Any) -> list[str]:
    fit, slow = within_budget(results, milliseconds)
    rows = [["Model", "Top-1 (%), published", "ms here", "p99 ms", "fastest as"]]
    for r in fit:
        top1 = _accuracy(r.model)
        setting = f"{r.setting}, batch {r.batch_size}"
        times = [f"{r.median:.2f}", f"{quantile(r.times, 0.99):.2f}"]
        rows.append([r.model, "-" if top1 is None else f"{top1:.2f}", *times, setting])
    parts = [table(rows)] if fit else ["None of the measured networks fits."]
    if slow:
        nearest = min(slow, key=lambda r: r.median)
        parts.append(
            f"{len(slow)} of {len(fit) + len(slow)} networks take longer; the next is "
            f"{nearest.model} with {nearest.median:.2f} ms."
        )
    return parts


def _profile(profile: Profile, table: Any) -> list[str]:
    rows = [["oneDNN primitive", "in a run", "ms", "share"]]
    for kind, count, ms, share in profile.rows():
        rows.append([kind, str(count), f"{ms:.3f}", f"{share:.0%}"])
    found = profile.as_dict()
    total, wall = found["primitives_ms"], found["profiled_run_ms"]
    rows.append(["sum of the primitives", "", f"{total:.3f}", "100%"])
    slowest = [["slowest primitive", "implementation", "problem", "ms"]]
    slowest += [[kind, by, problem, f"{ms:.3f}"] for kind, by, problem, ms in profile.top()]
    line = (
        f"The profiled Paddle run took {wall:.3f} ms by the clock; the writing of oneDNN's lines "
        "is in it, so compare the engines above with the sum, not with this."
    )
    return [table(rows), table(slowest), line]


def text(rows: Rows) -> str:
    """Aligned columns for a terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def markdown(rows: Rows) -> str:
    """A Markdown table."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
