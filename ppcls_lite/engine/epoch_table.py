"""The epochs of a run as a table on a terminal: a row each, as wide as the terminal allows.

Elsewhere, in a pipe or in train.log, there are the lines of trainer.py and scoring.py instead.
Read before: callbacks.py.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from ppcls_lite.engine.callbacks import Callback, Progress
from ppcls_lite.engine.log import on_terminal
from ppcls_lite.system.terminal import painted

WIDTH = 9  # of a column, at least
AGAIN = 20  # rows after which the head stands there again


class EpochTable(Callback):
    """Prints a row after each epoch; the best so far is marked."""

    def __init__(self) -> None:
        self._head = ""
        self._rows = 0
        self._since = time.monotonic()

    def on_start(self, run: Progress) -> None:
        self._since = time.monotonic()

    def on_epoch(self, run: Progress, done: Mapping[str, Any]) -> None:
        if not on_terminal():
            return
        passed, self._since = time.monotonic() - self._since, time.monotonic()
        time_text = str(datetime.timedelta(seconds=round(passed)))
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
        is_best = run.best.get("epoch") == done["epoch"]
        head, row = table_row(done, run.epochs, time_text, is_best, columns)
        if head != self._head or self._rows % AGAIN == 0:
            tqdm.write(painted(head, "bold"), file=sys.stdout)
        self._head, self._rows = head, self._rows + 1
        tqdm.write(painted(row, "green") if is_best else row, file=sys.stdout)


def table_row(
    done: Mapping[str, Any], epochs: int, passed: str, is_best: bool, columns: int
) -> tuple[str, str]:
    """Head and row of an epoch's entry in a history, of at most `columns` characters."""
    train, scores = done["train"], done["eval"] or {}
    number = f"{done['epoch']}/{epochs}"
    cells = [("epoch", number.rjust(2 * len(str(epochs)) + 1))]
    loss = [("loss", train["loss"])] if "loss" in train else []
    main = [*scores.items()][:1]
    rest = [(n, v) for n, v in train.items() if n != "loss" and not n.endswith("Loss")]
    numbers = [
        *loss,
        *((f"eval {name}", value) for name, value in main),
        *((f"eval {name}", value) for name, value in scores.items() if name == "loss"),
        *rest,
        *((f"eval {n}", v) for n, v in [*scores.items()][1:] if n != "loss"),
    ]
    numbers = list(dict(numbers).items())
    fixed = [("time", passed)]
    for name, value in numbers:
        shown = f"{value:.4f}" if abs(value) < 1000 else f"{value:.3e}"
        wanted = [*cells, (name, shown), *fixed]
        if _length(wanted) + 2 > columns:  # a mark follows
            break
        cells.append((name, shown))
    cells += fixed
    widths = [_width(cell) for cell in cells]
    head = "  ".join(name.rjust(width) for (name, _), width in zip(cells, widths))
    row = "  ".join(value.rjust(width) for (_, value), width in zip(cells, widths))
    return head, f"{row} *" if is_best else row


def _width(cell: tuple[str, str]) -> int:
    return max(WIDTH if "/" not in cell[1] else 5, *map(len, cell))


def _length(cells: list[tuple[str, str]]) -> int:
    return sum(map(_width, cells)) + 2 * (len(cells) - 1)
