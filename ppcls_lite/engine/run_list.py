"""The runs below a folder, best first, from what they leave: status.json and the lock (no Paddle).

Read before: run_status.py, which writes the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import try_lock

NAME = "status.json"
RECORDS = "metrics.jsonl"
RUNNING = "running"
NAME_WIDTH = 30  # characters of a name that count more than the last columns
OWN: set[Path] = set()  # the locks that this process has
_PLACE = {"kind", "epoch", "step"}


@dataclass(frozen=True)
class Run:
    """One run. `score` is the value of `main` in `best_epoch`; what is not known is None.

    status: done, stopped (it can be resumed; `why` says by what), running or failed.
    """

    folder: str
    status: str
    why: str
    epoch: int | None
    epochs: int | None
    main: str | None
    score: float | None
    best_epoch: int | None
    higher_is_better: bool
    seconds: float | None
    began: str | None


def lock_of(run_dir: Path) -> Path:
    """The file that is locked while a training owns the folder."""
    return run_dir.with_name(f".{run_dir.name}.lock")


def is_owned(run_dir: Path) -> bool:
    """Whether a training owns the folder now.

    A process that closes the file of a lock gives up its own lock: those are not opened.
    """
    if lock_of(run_dir).resolve() in OWN:
        return True
    try:
        with lock_of(run_dir).open("r+", encoding="utf-8", errors="replace") as file:
            return not try_lock(file)
    except OSError:
        return False


def read_status(run_dir: Path) -> dict[str, Any]:
    """What status.json says; empty where there is none, or none that can be read."""
    try:
        found = json.loads((run_dir / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def find_runs(folder: Path) -> list[Run]:
    """All runs in `folder` and below it, sorted: by main score, best first, then those without.

    Raises UserError where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with runs (Global.output_dir)")
    places = {p.parent for name in (NAME, RECORDS) for p in folder.rglob(name) if p.is_file()}
    found = [_run(place, folder) for place in sorted(places)]
    return sorted(found, key=_rank)


def _run(place: Path, folder: Path) -> Run:
    known = read_status(place) or _of_records(place)
    status, why = str(known.get("status", "stopped")), str(known.get("why", ""))
    owned = is_owned(place)
    if owned:
        status, why = RUNNING, ""
    elif status == RUNNING:
        status, why = "stopped", "killed"
    numbers = {n: _number(known.get(n)) for n in ("epoch", "epochs", "best_epoch", "best")}
    return Run(
        folder=str(place.relative_to(folder)) if place != folder else str(place),
        status=status,
        why=why,
        epoch=numbers["epoch"],
        epochs=numbers["epochs"],
        main=known["main"] if isinstance(known.get("main"), str) else None,
        score=numbers["best"],
        best_epoch=numbers["best_epoch"],
        higher_is_better=known.get("higher_is_better") is not False,
        seconds=_number(known.get("seconds")),
        began=known["began"] if isinstance(known.get("began"), str) else None,
    )


def _of_records(place: Path) -> dict[str, Any]:
    """What metrics.jsonl tells of a run without status.json, as earlier versions left it.

    Which way a score goes is not in it; a loss goes down.
    """
    best: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        for line in (place / RECORDS).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(record, dict) or not record.keys() >= _PLACE:
                break
            if record["kind"] == "train":
                best["epoch"] = record["epoch"]
            names = [name for name in record if name not in _PLACE]
            if record["kind"] != "eval" or not names:
                continue
            main, value = names[0], _number(record[names[0]])
            up = main != "loss"
            before = best.get("best")
            if value is not None and (before is None or (value >= before) == up or value == before):
                best |= {"main": main, "best": value, "best_epoch": record["epoch"]}
                best["higher_is_better"] = up
    return best


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rank(run: Run) -> tuple:
    if run.score is None:
        return (1, "", 0.0, run.folder)
    return (0, run.main or "", -run.score if run.higher_is_better else run.score, run.folder)


def table(runs: Sequence[Run], columns: int) -> str:
    """The runs as lines of at most `columns` characters, where names allow it."""
    rows = [["run", "status", "epoch", "score", "at epoch", "time", "began"]]
    for run in runs:
        score = "" if run.score is None else f"{run.main} {run.score:.5g}"
        epoch = "" if run.epoch is None else f"{run.epoch}/{run.epochs or '?'}"
        status = f"{run.status} ({run.why})" if run.why and run.status != "failed" else run.status
        at = "" if run.best_epoch is None else str(run.best_epoch)
        rows.append([run.folder, status, epoch, score, at, _clock(run.seconds), run.began or ""])
    while True:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        room = columns - sum(widths[1:]) - 2 * (len(widths) - 1)  # for the name
        if room >= min(widths[0], NAME_WIDTH) or len(widths) <= 4:
            break
        rows = [row[:-1] for row in rows]
    if room < min(widths[0], NAME_WIDTH):  # a narrow terminal: no words beside the status
        rows = [[name, status.partition(" (")[0], *rest] for name, status, *rest in rows]
        widths[1] = max(len(row[1]) for row in rows)
        room = columns - sum(widths[1:]) - 2 * (len(widths) - 1)
    room = max(room, 12)
    lines = []
    for name, *rest in rows:
        short = name if len(name) <= room else f"...{name[3 - room :]}"
        cells = [short.ljust(min(room, widths[0]))]
        cells += [text.ljust(width) for text, width in zip(rest, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def as_records(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """The runs as plain data, for JSON and CSV."""
    return [vars(run) for run in runs]
