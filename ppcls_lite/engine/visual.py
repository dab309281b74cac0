"""Scalars, pictures and hyper-parameters for VisualDL.

To look at them: `visualdl --logdir RUN_FOLDER/vdl --language en`. Without `--language`, VisualDL
2.5.3 answers a browser that asks for neither English nor Chinese with an error.
VisualDL is a convenience: if it is missing or fails, one warning says so and training goes on;
all numbers are in metrics.jsonl anyway. Used are add_scalar, add_image and add_hparams, whose
records a test reads back; in VisualDL 2.5.3 add_graph and add_pr_curve fail. Read next: record.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger("ppcls_lite")

_NOT_SCALARS = ("kind", "epoch", "step")


class VisualLog:
    """One VisualDL record file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        self._hyper_parameters: dict[str, Any] = {}  # until they are written

    def open(self, hyper_parameters: Mapping[str, Any]) -> None:
        """Start a new file; an older one of ours goes, since VisualDL shows one file a folder."""
        self.close()
        with self._guard("be started"):
            from visualdl import LogWriter

            for old in self.folder.glob("vdlrecords.*.log"):
                old.unlink()
            self._writer = LogWriter(logdir=str(self.folder))
            self._hyper_parameters = {
                name: value if type(value) in (int, float) else str(value)
                for name, value in hyper_parameters.items()
            }
            logger.info(f"To watch the curves: visualdl --logdir {self.folder} --language en")

    def add(self, record: Mapping[str, Any]) -> None:
        """Show a record of metrics.jsonl: steps under `train`, the rest by epoch."""
        by_step = record["kind"] == "step"
        group = {"step": "train", "train": "train_epoch"}.get(record["kind"], record["kind"])
        values = [name for name in record if name not in _NOT_SCALARS]
        if record["kind"] == "eval":
            self._compare(f"eval/{values[0]}")  # the main score
        with self._guard("write"):
            for name in values:
                if type(record[name]) in (int, float) and self._writer:
                    x = record["step"] if by_step else record["epoch"]
                    self._writer.add_scalar(f"{group}/{name}", record[name], x)

    def image(self, tag: str, picture: np.ndarray, step: int = 0) -> None:
        """Show `picture` (H, W, 3) uint8, as of `step`."""
        with self._guard("write"):
            if self._writer:
                self._writer.add_image(tag, picture, step=step)

    def close(self) -> None:
        self._compare()
        writer, self._writer = self._writer, None
        with self._guard("write"):
            if writer:
                writer.close()

    def _compare(self, *scores: str) -> None:
        """Write the table of hyper-parameters, once, with the loss and `scores` beside them."""
        table, self._hyper_parameters = self._hyper_parameters, {}
        with self._guard("write"):
            if table and self._writer:
                self._writer.add_hparams(table, ["train/loss", *scores])

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Whatever VisualDL raises ends VisualDL, not the run."""
        try:
            yield
        except ImportError as error:
            self._writer = None
            logger.warning(
                f"VisualDL is off: it is not installed ({error}). pip install visualdl, or set "
                "Global.use_visualdl to False. All numbers are in metrics.jsonl."
            )
        except Exception as error:
            self._writer = None
            logger.warning(
                f"VisualDL is off: it could not {what} in {self.folder} "
                f"({type(error).__name__}: {error}). All numbers are in metrics.jsonl."
            )
