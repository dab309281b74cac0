"""What a run leaves in its folder, in one hand: records, checkpoints, pictures.

Read next: record.py (metrics.jsonl), checkpoint_manager.py (what is saved when).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle

from ppcls_lite.engine import checkpoint, run_folder
from ppcls_lite.engine.checkpoint_manager import CheckpointManager
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.record import Recorder, Value
from ppcls_lite.engine.training_state import TrainingState

SHOWN_IMAGES = 64  # of the first batch, at most


class Pictures(Protocol):
    """Draws into a run's folder; report/pictures.py has one."""

    def first_batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Draw `batch["image"]` (N, C, H, W) as it enters the network, with what is known about
        it; returns RGB uint8 (H, W, 3)."""

    def drawn_batch(self) -> np.ndarray | None:
        """What `first_batch` has drawn before a resume, if it is there."""

    def finish(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the run, from the `history` of its TrainingState."""


class Writer:
    """Writes a run into `run_dir`; one that is not `active` (ranks other than 0) writes nothing.

    By default there are records, a checkpoint after each epoch, and neither pictures nor reports of
    the metrics, which show `class_names`.
    """

    def __init__(
        self,
        run_dir: str | Path,
        recorder: Recorder | None = None,
        checkpoints: CheckpointManager | None = None,
        pictures: Pictures | None = None,
        class_names: Sequence[str] | None = None,
        active: bool = True,
    ) -> None:
        self.run_dir = run_folder.prepare(run_dir)
        self.recorder = recorder or Recorder(run_dir)
        self.checkpoints = checkpoints or CheckpointManager(run_dir)
        self.pictures = pictures if active else None
        self.class_names = class_names
        self.active = active

    def open(self, lines: int) -> None:
        """Begin, with the first `lines` records of a run that is resumed."""
        if self.active:
            checkpoint.remove_leftovers(self.run_dir)
            self._open_records(lines)

    def close(self) -> None:
        """End what goes on beside training; raises the error of the last checkpoint, if any."""
        try:
            self.wait()
        finally:
            self.recorder.close()

    @property
    def lines(self) -> int:
        """The number of records."""
        return self.recorder.lines

    def record(self, kind: str, state: TrainingState, values: Mapping[str, Value]) -> None:
        """Add `values` to metrics.jsonl, as of the present update."""
        if self.active:
            self.recorder.write(kind, state.epoch, state.updates, values)

    def rewind(self, lines: int) -> None:
        """Take back the records after the first `lines`."""
        if lines < self.lines:
            self._open_records(lines)

    def first_batch(self, batch: Mapping[str, paddle.Tensor]) -> None:
        """Show `batch`, the first one that the network is trained on."""
        if self.pictures:
            arrays = {name: tensor[:SHOWN_IMAGES].numpy() for name, tensor in batch.items()}
            self.recorder.show("train/first_batch", self.pictures.first_batch(arrays))

    def show(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Show pictures (H, W, 3) uint8 of the evaluation after `step` updates, by name."""
        if self.active:
            for name, picture in pictures.items():
                self.recorder.show(f"eval/{name}", picture, step)

    def is_due(self, updates: int) -> bool:
        """Whether a checkpoint is due after `updates` updates of the run."""
        return self.active and self.checkpoints.is_due(updates)

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk; raises the error of its writing."""
        self.checkpoints.wait()

    def save(self, saved: Mapping[str, Any]) -> None:
        """Write `saved`, a collected state, as `latest`, beside training."""
        if self.active:
            self.checkpoints.save(saved)

    def save_epoch(self, saved: Mapping[str, Any], higher_is_better: bool) -> None:
        """Write `saved`, the state after an epoch, under every name that it deserves."""
        if self.active:
            self.checkpoints.save_epoch(saved, higher_is_better)

    def keep_best_as(self, name: str) -> None:
        """Keep the present `best_model` under another name as well."""
        if self.active:
            self.checkpoints.keep_best_as(name)

    def finish(self, state: TrainingState, evaluator: Evaluator | None) -> None:
        """Draw the run, and let the metrics report its best evaluation."""
        if self.pictures:
            self.pictures.finish(state.history)
            if evaluator:
                kept = state.best.get("metrics", {})
                files = evaluator.report(self.run_dir, self.class_names, kept)
                for path in [p for p in files if p.suffix == ".png"]:
                    self.recorder.show_file(f"best/{path.stem}", path, state.updates)

    def _open_records(self, lines: int) -> None:
        self.recorder.open(lines)
        drawn = self.pictures.drawn_batch() if self.pictures and self.lines else None
        if drawn is not None:
            self.recorder.show("train/first_batch", drawn)
