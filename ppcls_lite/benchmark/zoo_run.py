"""Measures the whole zoo, a few networks at a time: `deploy/benchmark.py --zoo`.

Each network is measured at the image size that its published accuracy is for. The processes of all
settings live through the whole measurement; a group of networks is loaded, measured in turns and
forgotten, and the file is written. Read before: turns.py. Read next: zoo_choice.py.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ppcls_lite.benchmark import models as networks
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.benchmark.turns import Team
from ppcls_lite.benchmark.zoo_file import Line, ZooFile
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError

GROUP = 4  # networks that are in memory together, once for each setting
Say = Callable[[str], None]


def chosen(patterns: Sequence[str]) -> list[str]:
    """The networks with a published accuracy whose names fit one of the shell patterns.

    Raises UserError where a pattern fits none.
    """
    scored = [name for name, entry in ZOO.items() if entry.accuracy is not None]
    for pattern in patterns:
        if not fnmatch.filter(scored, pattern):
            raise UserError(
                f"--zoo: no network with a published accuracy is named like {pattern!r}; "
                "ppcls-lite zoo lists them"
            )
    return [n for n in scored if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]


def fill(
    file: ZooFile,
    path: Path,
    names: Sequence[str],
    settings: Sequence[Setting],
    cores: Sequence[int],
    rooms: tuple[Path, Path],
    rounds: int,
    seconds: float,
    say: Say = print,
) -> None:
    """Measure what of `names` is not in `file`, and write it to `path` after each group.

    rooms: where the exported networks stay, and where the logs of the processes go.
    """
    missing = [name for name in names if name not in file.models]
    if not missing:
        return
    formats = ["paddle"]
    if any(setting.engine != "paddle" for setting in settings):
        formats.append("onnx")
    if any(setting.precision == "int8" for setting in settings):
        formats.append("int8")
    done = 0
    with Team(settings, cores, rooms[1], _silent) as team:

        def measured(group: Sequence[str], size: int) -> list[Line]:
            """One by one where one of them cannot be exported or run."""
            job = networks.Job((size, size))
            logging.disable(logging.INFO)  # how random weights take to int8 is of no interest
            try:
                folders = networks.prepare(group, rooms[0], job, formats, _silent)
                results = team.measure(folders, [1], (3, size, size), rounds, seconds)[0]
            except UserError as error:
                if len(group) > 1:
                    team.forget()
                    return [line for name in group for line in measured([name], size)]
                file.failed |= dict.fromkeys(group, str(error).splitlines()[0])
                return []
            finally:
                logging.disable(logging.NOTSET)
                team.forget()
            return [Line.of(result) for result in results]

        for size, group in _groups(missing):
            file.lines += measured(group, size)
            file.write(path)
            done += len(group)
            say(f"[{done}/{len(missing)}] {', '.join(group)}")


def _silent(_: str) -> None:
    """Nothing is said of a group's own measurement."""


def _groups(names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Networks that take images of one size, a few at a time."""
    by_size: dict[int, list[str]] = {}
    for name in names:
        by_size.setdefault(ZOO[name].top1_size, []).append(name)
    for size, own in by_size.items():
        for start in range(0, len(own), GROUP):
            yield size, own[start : start + GROUP]
