"""What `deploy/benchmark.py --zoo` and `--report` do with their options. Read next: zoo_run.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.benchmark import zoo_choice, zoo_figure, zoo_run
from ppcls_lite.benchmark.machine import Machine
from ppcls_lite.benchmark.report import markdown, text
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.benchmark.zoo_file import FILE, ZooFile, goes_on, read
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_text

ROUNDS, SECONDS = 3, 0.3  # of each contender, where the options say nothing


def wanted(options: argparse.Namespace, budget: float | None) -> bool:
    """Whether the zoo is measured network by network; else together, as one report."""
    alone = not (options.model or options.arch or options.paper or options.profile)
    return alone and (options.zoo is not None or options.filter is not None or budget is not None)


def measure(
    options: argparse.Namespace,
    machine: Machine,
    settings: Sequence[Setting],
    cores: Sequence[int],
    budget: float | None,
    room: Path,
) -> None:
    """Measure what is missing in `<output>/zoo.json` and say what the file says then.

    room: a temporary folder, also for the file where there is no `--output`.
    """
    if options.batch_sizes != [1] or "auto" in {setting.engine for setting in settings}:
        raise UserError("--zoo: measures one image at a time, by engines with a precision each")
    names = zoo_run.chosen(options.filter or [options.zoo or "*"])
    kept = options.output or room
    rounds, seconds = options.rounds, options.seconds
    how = {"settings": sorted(str(s) for s in settings), "rounds": rounds, "seconds": seconds}
    file = goes_on(kept / FILE, f"{machine.cpu}, {len(machine.cores)} cores", how)
    missing = len(set(names) - file.models)
    print(f"{len(names)} networks, {missing} to be measured with {len(settings)} settings each")
    zoo_run.fill(
        file, kept / FILE, names, settings, cores, (kept / "models", room), rounds, seconds
    )
    _say(_only(file, names), budget)
    if options.output:
        _write(file, kept, budget)


def report(options: argparse.Namespace, budget: float | None) -> None:
    """Say what a file says, without measuring; write table and figure beside it."""
    path = Path(options.report)
    file = read(path)
    names = zoo_run.chosen(options.filter or [options.zoo or "*"])
    _say(_only(file, names), budget)
    _write(file, path.parent, budget, path.stem)
    if options.into:
        page = Path(options.into)
        zoo_choice.put_into(page, content(file))
        print(f"wrote {page}")


def content(file: ZooFile) -> str:
    """The table as a page has it."""
    return f"{markdown(zoo_choice.table(file))}\n\n{zoo_choice.legend(file)}"


def _only(file: ZooFile, names: Sequence[str]) -> ZooFile:
    lines = [line for line in file.lines if line.model in names]
    failed = {name: words for name, words in file.failed.items() if name in names}
    return ZooFile(file.machine, file.how, lines, failed)


def _say(file: ZooFile, budget: float | None) -> None:
    if not file.lines:
        raise UserError("--zoo: nothing was measured: " + "; ".join(file.failed.values()))
    rows = [row[:-1] for row in zoo_choice.table(file, budget)]
    print(f"\n{text(rows)}\n\n{zoo_choice.legend(file)}")
    if budget is not None:
        print(f"\n{zoo_choice.fits(file, budget)}")


def _write(file: ZooFile, folder: Path, budget: float | None, stem: str = "zoo") -> None:
    page, picture = folder / f"{stem}.md", folder / f"{stem}.svg"
    write_text(page, content(file) + "\n")
    zoo_figure.draw(file, picture)
    print(f"wrote {page}\nwrote {picture}")
