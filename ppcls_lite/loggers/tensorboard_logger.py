"""TensorBoard: event files in `RUN_FOLDER/tensorboard`, written by tensorboardX.

To look at them: `tensorboard --logdir RUN_FOLDER/tensorboard`. Training and evaluation have a
folder each, so that curves of one name share a chart. The files are written anew from the kept
records by each start. Read before: ../engine/loggers.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.engine.loggers import Records, numbers_of, place_of
from ppcls_lite.system.installed import require


@register("logger", aliases=("tensorboard",))
class TensorBoard:
    """TensorBoard's event files in the run folder (extra: .[tensorboard])."""

    def __init__(self) -> None:
        require("tensorboardX")
        self._writers: dict[str, Any] = {}

    def open(self, run_dir: Path, hyper_parameters: Mapping[str, Any], kept: Records) -> None:
        self._folder = Path(run_dir) / "tensorboard"
        shutil.rmtree(self._folder, ignore_errors=True)
        text = "\n".join(f"    {name}: {value}" for name, value in hyper_parameters.items())
        if text:
            self._writer("train").add_text("hyper-parameters", text, 0)
        for record in kept:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        curve, chart, x = place_of(record)
        writer = self._writer(curve)
        for name, value in numbers_of(record).items():
            writer.add_scalar(f"{chart}/{name}", value, x)
        if record["kind"] != "step":
            writer.flush()

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        self._writer("train").add_image(tag, picture, step, dataformats="HWC")

    def close(self) -> None:
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()

    def _writer(self, curve: str) -> Any:
        if curve not in self._writers:
            from tensorboardX import SummaryWriter

            self._writers[curve] = SummaryWriter(str(self._folder / curve))
        return self._writers[curve]
