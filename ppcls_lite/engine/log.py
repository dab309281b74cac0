"""What a person sees: log lines on the console and in train.log, and a bar on a terminal.

On a terminal a progress bar shows the running epoch and the lines of single steps go to train.log
only; elsewhere (a file, a pipe, a cluster's log) every line is printed. Read next: trainer.py.
"""

from __future__ import annotations

import datetime
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ppcls_lite.system.terminal import painted, printable

Item = TypeVar("Item")
NAME = "ppcls_lite"
HEARTBEAT = 30.0
REFRESH = 0.5  # seconds between two looks at the values that a bar shows
BAR_WIDTH = 32  # characters of a bar beside its title and its values
LOG_BYTES = 64 * 1024 * 1024  # then train.log becomes train.log.1, and the one before goes
STEP = {"is_step": True}  # `extra` of a line that a progress bar replaces
FILE_ONLY = {"file_only": True}  # `extra` of a line that the console shows in another way


class _Printable(logging.Formatter):
    """Lines in which names of files and classes cannot command the terminal that shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}
_BAR = "{desc} {percentage:3.0f}% {bar:10} {n_fmt}/{total_fmt}"
_FORMAT = _Printable("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%Y/%m/%d %H:%M:%S")


class _Console(logging.Handler):
    """Prints above a progress bar, if there is one, instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        seen = on_terminal()
        if getattr(record, "file_only", False) or (seen and getattr(record, "is_step", False)):
            return
        tqdm.write(self._short(record) if seen else self.format(record), file=sys.stdout)
        sys.stdout.flush()

    def _short(self, record: logging.LogRecord) -> str:
        """What a person reads who sits there: neither time nor logger, warnings in colour."""
        text = printable(record.getMessage(), lines=True)
        colour = _COLOURS.get(record.levelno)
        return f"{painted(record.levelname.lower(), colour)}: {text}" if colour else text


def setup(run_dir: Path | None = None, rank: int = 0, held: bool = False) -> logging.Logger:
    """Send the logger `ppcls_lite` to the console and, with `run_dir`, to its train.log (appended).

    `held`: the lines for train.log wait in memory until `release`, and never come if it is not
    called: a start that is refused leaves no trace in an earlier run's folder.

    Replaces what an earlier call set up, so several runs in one process do not mix. Only rank 0
    reports how a run goes; of the others one sees the warnings, in the launcher's workerlog.N.
    """
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        if getattr(handler, "is_ours", False):
            logger.removeHandler(handler)
            handler.close()
    handlers: list[logging.Handler] = [_Console()]
    if run_dir is not None and rank == 0:
        handlers.append(_Held() if held else _file(run_dir))
    for handler in handlers:
        _add(handler)
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False
    return logger


def release(run_dir: Path) -> None:
    """Write what `setup` has held back to the train.log of `run_dir`, and go on there."""
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        if isinstance(handler, _Held):
            file = _file(run_dir)
            handler.setTarget(file)
            logger.removeHandler(handler)
            handler.close()  # hands its lines over
            _add(file)


class _Held(logging.handlers.MemoryHandler):
    def __init__(self) -> None:
        super().__init__(capacity=sys.maxsize, flushLevel=sys.maxsize)


def _file(run_dir: Path) -> logging.Handler:
    path = run_dir / "train.log"
    file = logging.handlers.RotatingFileHandler(path, "a", LOG_BYTES, 1, encoding="utf-8")
    file.setFormatter(_FORMAT)
    return file


def _add(handler: logging.Handler) -> None:
    handler.is_ours = True  # type: ignore[attr-defined]
    handler.setFormatter(_FORMAT)
    logging.getLogger(NAME).addHandler(handler)


def on_terminal() -> bool:
    """Whether a bar can be seen: tqdm draws none on a terminal of 0 lines (`script`, some CI)."""
    return sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).lines > 0


class Bar(tqdm):
    """A bar on a terminal; elsewhere a line every HEARTBEAT seconds, so that nothing looks dead."""

    @property
    def wants_values(self) -> bool:
        """Whether somebody sees it, and its values are older than REFRESH seconds."""
        return not self.disable and time.monotonic() - self._told > REFRESH

    def tell(self, values: Sequence[str]) -> None:
        """Show `values`, the most important first, as many as the terminal has room for."""
        self._told = time.monotonic()
        if self.disable:
            return
        room = os.get_terminal_size(sys.stdout.fileno()).columns - len(self._title) - BAR_WIDTH
        text = ""
        for value in values:
            if len(text) + len(value) + 2 > room:
                break
            text += f"  {value}"
        self.bar_format = _BAR + text.replace("{", "{{").replace("}", "}}")

    def update(self, n: float | None = 1) -> bool | None:
        if not self.disable:
            return super().update(n)
        self.n += n
        if time.monotonic() - self._shown > HEARTBEAT:
            self._shown = time.monotonic()
            logging.getLogger(NAME).info(f"{self._title} {self.n}/{self.total}")
        return None


def bar(title: str, total: int, done: int = 0) -> Bar:
    """Shows how far one gets with `total` steps of which `done` are done."""
    shown = Bar(
        total=total,
        initial=done,
        desc=title,
        file=sys.stdout,
        disable=not on_terminal(),
        leave=False,
        dynamic_ncols=True,
        bar_format=_BAR,
    )
    shown._title, shown._shown, shown._told = title, time.monotonic(), 0.0
    return shown


class Stopwatch:
    """Mean seconds per step (`batch_cost`), of which waiting for data (`reader_cost`)."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._start, self._waited, self._steps, self._samples = time.perf_counter(), 0.0, 0, 0

    def waits(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; measures how long each lets the loop wait."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def step(self, samples: int) -> None:
        self._steps += 1
        self._samples += samples

    def costs(self) -> dict[str, float]:
        """batch_cost and reader_cost in seconds and ips in images/s since `restart`."""
        passed, steps = time.perf_counter() - self._start, max(self._steps, 1)
        return {
            "batch_cost": passed / steps,
            "reader_cost": self._waited / steps,
            "ips": self._samples / max(passed, 1e-9),
        }


class Remaining:
    """How long a run will take, from what it has taken since `start`, evaluations included."""

    def start(self, updates: int) -> None:
        self._since, self._updates = time.monotonic(), updates

    def text(self, updates: int, total: int) -> str:
        """`0:12:34 left` of `total` updates; empty before the first."""
        done = updates - self._updates
        if done < 1:
            return ""
        left = (time.monotonic() - self._since) / done * (total - updates)
        return f"{datetime.timedelta(seconds=round(left))} left"


def short(name: str, value: float) -> str:
    """A value as a bar shows it."""
    return f"{name} {value:.4g}" if abs(value) < 1e4 else f"{name} {value:.3e}"


def step_line(
    place: str,
    step: str,
    schedule: str,
    lr: float,
    values: Mapping[str, float],
    costs: Mapping[str, float],
    left: int,
) -> str:
    """One step in PaddleClas's form; `left` steps remain, whose cost is the eta."""
    eta = datetime.timedelta(seconds=int(costs["batch_cost"] * left))
    return (
        f"[Train]{place}[Iter: {step}]lr({schedule}): {lr:.8f}, {numbers(values)}, "
        f"batch_cost: {costs['batch_cost']:.5f}s, reader_cost: {costs['reader_cost']:.5f}s, "
        f"ips: {costs['ips']:.5f} samples/s, eta: {eta}"
    )


def numbers(values: Mapping[str, float]) -> str:
    """`name: value` pairs with five decimals."""
    return ", ".join(f"{name}: {value:.5f}" for name, value in values.items())
