"""The numbers of a run as data: metrics.jsonl, mirrored to loggers if wanted.

One JSON object a line, `kind` is `step` (a printed step: means since the epoch's start), `train`
(an epoch's means) or `eval`. A resumed run first drops the lines that were written after its
checkpoint, so that the file equals an uninterrupted run's apart from times. Read next: loggers.py.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_lite.engine.loggers import Guarded, Logger
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file, link_or_copy

logger = logging.getLogger("ppcls_lite")
Value = float | int | str | bool
FIRST = {"kind", "epoch", "step"}  # keys of every record
VARYING = ("batch_cost", "reader_cost", "ips", "peak_rss_mb", "peak_gpu_mb")  # in no two runs alike


class Recorder:
    """Writes the records of a run into `run_dir`.

    `loggers` get the same, and the `hyper_parameters` by which runs are compared.
    """

    def __init__(
        self,
        run_dir: str | Path,
        loggers: Sequence[Logger] = (),
        hyper_parameters: Mapping[str, Value] | None = None,
    ) -> None:
        self.path = Path(run_dir) / "metrics.jsonl"
        self.lines = 0
        self._hyper_parameters = dict(hyper_parameters or {})
        self._loggers = [Guarded(logger) for logger in loggers]

    def open(self, keep: int = 0) -> None:
        """Start with the first `keep` lines of the file (a resumed run) or none (a new one)."""
        kept = self._read(keep) if keep else []
        self.lines = len(kept)
        with atomic_file(self.path) as file:
            file.write("".join(f"{json.dumps(record)}\n" for record in kept).encode())
        for mirror in self._loggers:
            mirror.open(self.path.parent, self._hyper_parameters, kept)

    def write(self, kind: str, epoch: int, step: int, values: Mapping[str, Value]) -> None:
        """Add one record; `step` counts the updates of the whole run."""
        record: dict[str, Any] = {"kind": kind, "epoch": epoch, "step": step}
        for name, value in values.items():  # JSON knows no NaN
            finite = not isinstance(value, float) or math.isfinite(value)
            record[name] = value if finite else None
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror or error}. Free disk space and "
                f"resume with -o Global.checkpoints={self.path.parent / 'latest'}"
            ) from None
        self.lines += 1
        for mirror in self._loggers:
            mirror.add(record)

    def show(self, tag: str, picture: np.ndarray, step: int = 0) -> None:
        """Hand `picture` (H, W, 3) uint8, as of `step` updates, to the loggers."""
        for mirror in self._loggers:
            mirror.image(tag, picture, step)

    def show_file(self, tag: str, path: Path, step: int) -> None:
        """The same of a picture that has been written."""
        if self._loggers:
            with Image.open(path) as picture:
                self.show(tag, np.asarray(picture.convert("RGB")), step)  # (H, W, 3)

    def close(self) -> None:
        for mirror in self._loggers:
            mirror.close()

    def _read(self, keep: int) -> list[dict[str, Any]]:
        """The first `keep` records, or those before one that a crash or somebody has damaged."""
        if not self.path.exists():
            return []
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be read: {error.strerror or error}. Move it away to resume "
                "without the records so far"
            ) from None
        records: list[dict[str, Any]] = []
        for line in lines[:keep]:
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                break
            if not isinstance(record, dict) or not record.keys() >= FIRST:
                break
            records.append(record)
        if len(records) < keep:
            damaged = self.path.with_name(f"{self.path.name}.damaged")
            link_or_copy(self.path, damaged)
            logger.warning(
                f"{self.path} has {len(records)} good records, but {keep} belong to the checkpoint "
                f"that is resumed: the others are missing now. The file as it was: {damaged}"
            )
        return records
