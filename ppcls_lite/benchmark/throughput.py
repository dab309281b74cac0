"""How many images a second all cores give together: `ppcls-lite benchmark --mode throughput`.

For each engine and precision there are two ways to use the cores: a process with one thread on each
of them, or one process with all. Every way runs every batch size, all its processes at the same
time. What is reached is compared with the sum of the cores: what the first process does at its
best batch while the others rest, times the number of cores. Read before: turns.py.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.benchmark.turns import Process

_LEAST = 3  # runs of each process in a turn


@dataclass
class Rate:
    """Images a second of a model, run in one way with one batch size, in every round."""

    model: str
    setting: Setting
    processes: int
    batch_size: int
    alone: bool = False  # the first process, while the others rest
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Images a second."""
        return statistics.median(self.rounds)


def measure(
    models: dict[str, Path],
    settings: Sequence[Setting],
    batch_sizes: Sequence[int],
    image_shape: tuple[int, int, int],
    cores: Sequence[int],
    folder: Path,
    rounds: int,
    seconds: float,
    say: Callable[[str], None] = print,
) -> list[Rate]:
    """Measure every way on `cores`; `seconds` are those of one contender over all rounds.

    settings: their threads are not looked at; what each stands for is an engine and a precision.
    """
    kinds = list(dict.fromkeys((setting.engine, setting.precision) for setting in settings))
    found: list[Rate] = []
    for engine, precision in kinds:
        for threads in dict.fromkeys((1, len(cores))):
            setting = Setting(engine, precision, threads)
            with _together(setting, cores, folder) as team:
                for model, path in models.items():
                    shapes = [[size, *image_shape] for size in batch_sizes]
                    _ask(team, do="load", model=model, folder=str(path), shapes=shapes)
                    mine = [Rate(model, setting, len(team), size) for size in batch_sizes]
                    if threads == 1:
                        mine += [Rate(model, setting, 1, size, alone=True) for size in batch_sizes]
                    for _ in range(rounds):
                        for rate in mine:
                            shape = [rate.batch_size, *image_shape]
                            asked = {"model": model, "shape": shape, "seconds": seconds / rounds}
                            answers = _ask(team[: rate.processes], do="turn", least=_LEAST, **asked)
                            times = [statistics.mean(answer["ms"]) for answer in answers]
                            rate.rounds.append(sum(1000 * rate.batch_size / ms for ms in times))
                    found += mine
            say(f"measured: {setting}, {len(team)} at once")
    return found


def table(rates: Sequence[Rate], cores: int) -> list[str]:
    """Markdown: for each model its ways, the fastest first, and what to ask `predict` for."""
    lines = []
    for model in dict.fromkeys(rate.model for rate in rates):
        mine = [rate for rate in rates if rate.model == model]
        alone: dict[tuple[str, str], float] = {}
        for rate in mine:
            if rate.alone:
                kind = rate.setting.engine, rate.setting.precision
                alone[kind] = max(alone.get(kind, 0.0), rate.median)
        together = sorted((r for r in mine if not r.alone), key=lambda r: r.median, reverse=True)
        lines += [f"## {model}", "", "| | processes x threads | batch | images/s | of the sum |"]
        lines += ["|---|---|---:|---:|---:|"]
        for rate in together:
            sum_of_cores = cores * alone[rate.setting.engine, rate.setting.precision]
            lines.append(
                f"| {rate.setting.engine} {rate.setting.precision} | {rate.processes} x "
                f"{rate.setting.threads} | {rate.batch_size} | {rate.median:.1f} | "
                f"{rate.median / sum_of_cores:.0%} |"
            )
        best = together[0]
        number = "1 process" if best.processes == 1 else f"{best.processes} processes, each"
        kind = best.setting.precision
        precision = "" if kind == "any" else f" --precision {kind}"  # auto chooses one
        lines += [
            "",
            f"The most images a second: {number} with --engine {best.setting.engine}{precision} "
            f"--threads {best.setting.threads} --batch-size {best.batch_size}",
            "",
        ]
    return lines


@contextlib.contextmanager
def _together(setting: Setting, cores: Sequence[int], folder: Path) -> Any:
    """The processes that share the cores, each with `setting.threads` of them."""
    with contextlib.ExitStack() as stack:
        team = []
        for first in range(0, len(cores) - setting.threads + 1, setting.threads):
            name = f"{setting.engine}_{setting.precision}_{setting.threads}_{first}.log"
            process = Process(setting, cores[first : first + setting.threads], folder / name)
            team.append(stack.enter_context(process))
        yield team


def _ask(team: Sequence[Process], **request: Any) -> list[dict[str, Any]]:
    """Send one request to all, so that they work at the same time; their answers."""
    for process in team:
        process.send(**request)
    return [process.receive() for process in team]
