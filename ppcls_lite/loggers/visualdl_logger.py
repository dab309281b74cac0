"""VisualDL: curves, pictures and hyper-parameters in `RUN_FOLDER/vdl`.

To look at them: `visualdl --logdir RUN_FOLDER/vdl --language en`. Without `--language`, VisualDL
2.5.3 answers a browser that asks for neither English nor Chinese with an error. It draws curves
of one name from several folders into one chart, so training and evaluation have a folder each.
Its files are written anew from the kept records by each start, because VisualDL shows only the
newest file of a folder. Used are add_scalar, add_image and add_hparams, whose records a test reads
back; in VisualDL 2.5.3 add_graph and add_pr_curve fail. Read before: ../engine/loggers.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.engine.loggers import Records, numbers_of, place_of

logger = logging.getLogger("ppcls_lite")


@register("logger", aliases=("visualdl",))
class VisualDL:
    """VisualDL's files in the run folder; what `Global.use_visualdl: true` means."""

    def __init__(self) -> None:
        self._writers: dict[str, Any] = {}
        self._table: dict[str, Any] = {}  # hyper-parameters that are not yet written

    def open(self, run_dir: Path, hyper_parameters: Mapping[str, Any], kept: Records) -> None:
        import visualdl  # noqa: F401 (an error here is that it is not installed)

        self._folder = Path(run_dir) / "vdl"
        for old in self._folder.rglob("vdlrecords.*.log"):
            old.unlink()
        self._table = {
            name: value if type(value) in (int, float) else str(value)
            for name, value in hyper_parameters.items()
        }
        logger.info(f"To watch the curves: visualdl --logdir {self._folder} --language en")
        for record in kept:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        curve, chart, x = place_of(record)
        values = numbers_of(record)
        if curve == "eval" and values:
            self._compare(f"{chart}/{next(iter(values))}")  # the main score
        for name, value in values.items():
            self._writer(curve).add_scalar(f"{chart}/{name}", value, x)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        self._writer("train").add_image(tag, picture, step=step)

    def close(self) -> None:
        if self._writers:
            self._compare()
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()

    def _writer(self, curve: str) -> Any:
        if curve not in self._writers:
            from visualdl import LogWriter

            folder = self._folder / curve
            name = f"{curve} {self._folder.parent}"  # the page cuts off the ends of long names
            self._writers[curve] = LogWriter(logdir=str(folder), display_name=name)
        return self._writers[curve]

    def _compare(self, *scores: str) -> None:
        """Write the table of hyper-parameters, once, with the loss and `scores` beside them."""
        table, self._table = self._table, {}
        if table:
            writer = self._writer("eval" if scores else "train")
            writer.add_hparams(table, [*scores, *["step/loss"] * (not scores)])
