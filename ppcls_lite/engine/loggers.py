"""What a logger is, and the guard that keeps its mistakes from a run.

A logger mirrors records and pictures elsewhere. It is a convenience: whatever it raises ends the
logger with one warning, not the run, and all numbers are in metrics.jsonl anyway.
Read before: record.py. Read next: ../loggers/.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

logger = logging.getLogger("ppcls_lite")
Records = Sequence[Mapping[str, Any]]
NOT_VALUES = ("kind", "epoch", "step")  # of a record


class Logger(Protocol):
    """Mirrors one run after another; the classes in ppcls_lite/loggers are those of a recipe.

    The records are those of metrics.jsonl: `kind` (step, train, eval, reference), `epoch`, `step`
    (updates of the run) and named values.
    """

    def open(self, run_dir: Path, hyper_parameters: Mapping[str, Any], kept: Records) -> None:
        """Begin; `kept` are the records of a run that is resumed."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record."""

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Take `picture` (H, W, 3) uint8, as of `step` updates."""

    def close(self) -> None:
        """Write what is held back, and end."""


class Guarded:
    """A logger that can do no harm."""

    def __init__(self, inner: Logger) -> None:
        self._inner, self._name, self._works = inner, type(inner).__name__, False

    def open(self, run_dir: Path, hyper_parameters: Mapping[str, Any], kept: Records) -> None:
        """Close what was open, and begin."""
        self.close()
        self._works = True
        self._try("be started", lambda: self._inner.open(run_dir, hyper_parameters, kept))

    def add(self, record: Mapping[str, Any]) -> None:
        self._try("write", lambda: self._inner.add(record))

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        self._try("write", lambda: self._inner.image(tag, picture, step))

    def close(self) -> None:
        self._try("write", self._inner.close)

    def _try(self, what: str, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:
            self._works = False
            if isinstance(error, ImportError):
                why = f"it is not installed ({error})"
            else:
                why = f"it could not {what} ({type(error).__name__}: {error})"
            logger.warning(f"{self._name} is off: {why}. All numbers are in metrics.jsonl")


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The values of a record that can be drawn."""
    return {n: v for n, v in record.items() if n not in NOT_VALUES and type(v) in (int, float)}


def place_of(record: Mapping[str, Any]) -> tuple[str, str, int]:
    """In which curve and chart a record's values belong, and where: (curve, chart, x).

    Steps are drawn over updates, epochs over epochs; training and evaluation share their charts.
    """
    if record["kind"] == "step":
        return "train", "step", record["step"]
    return record["kind"], "epoch", record["epoch"]
