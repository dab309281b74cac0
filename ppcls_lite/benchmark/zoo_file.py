"""Accuracy against latency, network by network: the file of a measurement of the zoo.

`zoo.json` holds the machine, how it was measured and a line for each contender. It grows while
the zoo is measured, so that a measurement that was stopped goes on. Read next: zoo_run.py
(who writes it), zoo_choice.py (what it says).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ppcls_lite.benchmark.result import UNSTEADY, Result, quantile
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_text

FILE = "zoo.json"


@dataclass(frozen=True)
class Line:
    """One network with one setting: `ms` an image, of the quiet runs where it was `unsteady`."""

    model: str
    engine: str
    precision: str
    threads: int
    ms: float
    unsteady: bool

    @classmethod
    def of(cls, result: Result) -> Line:
        unsteady = max(result.spread, result.drift) > UNSTEADY
        ms = quantile(result.times, 0.1) if unsteady else result.median
        setting = result.setting
        place = (result.model, setting.engine, setting.precision, setting.threads)
        return cls(*place, round(ms / result.batch_size, 4), unsteady)


@dataclass
class ZooFile:
    """What is known so far. how: the options that decide about figures.

    failed: networks that an engine cannot run, with its words.
    """

    machine: str
    how: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> set[str]:
        """The networks that are measured."""
        return {line.model for line in self.lines} | set(self.failed)

    def write(self, path: Path) -> None:
        """Replace the file at once, so that a stop leaves a whole one."""
        tree = {"machine": self.machine, "how": self.how, "failed": self.failed}
        lines = ",\n  ".join(json.dumps([*asdict(line).values()]) for line in self.lines)
        head = json.dumps(tree, indent=1)[:-2]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f'{head},\n "lines": [\n  {lines}\n ]\n}}\n')


def read(path: Path) -> ZooFile:
    """The file; UserError where it is none, or names networks that the zoo does not have."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        found = ZooFile(
            tree["machine"], tree["how"], [Line(*line) for line in tree["lines"]], tree["failed"]
        )
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; --zoo --output DIR writes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no measurement of the zoo ({error})") from None
    if unknown := sorted(found.models - set(ZOO)):
        raise UserError(f"{path}: the zoo has no {unknown[0]}; measure it again")
    return found


def goes_on(path: Path, machine: str, how: Mapping[str, Any]) -> ZooFile:
    """The file to fill: that of an earlier call, measured in the same way, or a new one."""
    if not path.is_file():
        return ZooFile(machine, dict(how))
    found = read(path)
    was = {"machine": found.machine, **found.how}
    now = {"machine": machine, **how}
    changed = [f"{k}: {was.get(k)} -> {now.get(k)}" for k in now if was.get(k) != now.get(k)]
    if changed:
        raise UserError(
            f"{path} was measured otherwise, and one table must not mix both (earlier -> now):\n  "
            + "\n  ".join(changed)
            + "\nchoose another --output, or the earlier settings"
        )
    return found
