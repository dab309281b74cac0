"""When checkpoints are written, which stay, and the thread that writes them beside training.

Training waits for the copy of its state only. One checkpoint is written at a time: if the next is
due before the last is on the disk, training waits for that. An error in the thread (a full disk)
stops the run at the next step with its message; older checkpoints are whole. Times are taken
from the monotonic clock, so a change of the system's clock does no harm.
Read next: checkpoint.py (one checkpoint), trainer.py.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.log import STEP
from ppcls_lite.engine.main_score import main_score, may_win

logger = logging.getLogger("ppcls_lite")

ALREADY_COPIED = ("model", "companions", "optimizer", "ema")  # arrays made for the checkpoint


class CheckpointManager:
    """Writes the checkpoints of a run into `run_dir`.

    `latest` is written after every epoch, every `save_steps` updates and every `save_minutes`, and
    last of all: whatever moment a kill falls on, the resumed run writes again what is missing.
    `best_model` when the score improved; `epoch_N` every `save_interval` epochs. With `keep_last`
    only that many of the latter stay; with `keep_best` the epochs with the best scores are kept as
    `epoch_N` as well, and do not count.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        save_interval: int = 1,
        save_steps: int | None = None,
        save_minutes: float | None = None,
        keep_last: int | None = None,
        keep_best: int | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.save_interval = save_interval
        self.save_steps, self.save_minutes = save_steps, save_minutes
        self.keep_last, self.keep_best = keep_last, keep_best
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved_at = time.monotonic()

    def is_due(self, updates: int) -> bool:
        """Whether to save after `updates` updates. Raises the error of the last writing, if any."""
        self._raise_error()
        minutes = (time.monotonic() - self._saved_at) / 60
        by_step = self.save_steps is not None and updates % self.save_steps == 0
        return by_step or (self.save_minutes is not None and minutes >= self.save_minutes)

    def save(
        self,
        state: Mapping[str, Any],
        names: Sequence[str] = ("latest",),
        unwanted: Sequence[str] = (),
    ) -> None:
        """Write `state` under `names` in the background, and delete `unwanted` before the last.

        `state` may share lists and arrays with the running training, except for its weights.
        """
        self.wait()
        own = {k: v if k in ALREADY_COPIED else copy.deepcopy(v) for k, v in state.items()}
        self._thread = threading.Thread(
            target=self._write, args=(own, names, unwanted), name="checkpoint"
        )
        self._thread.start()
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        """Return when what was saved is on the disk; raises the error of the writing, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise_error()

    def save_epoch(self, state: Mapping[str, Any], higher_is_better: bool) -> None:
        """Write `state`, after an epoch, as `epoch_N` and `best_model` where due, and `latest`.

        Which scores are better decides about what stays.
        """
        history = state["history"]
        epoch, kept = history[-1]["epoch"], self._kept(history, higher_is_better)
        best = ["best_model"] * (state["best"].get("epoch") == epoch)
        unwanted = [f"epoch_{e['epoch']}" for e in history if e["epoch"] not in kept]
        all_stay = self.keep_last is None and self.keep_best is None
        names = [*[f"epoch_{epoch}"] * (epoch in kept), *best, "latest"]
        self.save(state, names, () if all_stay else unwanted)

    def _kept(self, history: Sequence[Mapping[str, Any]], up: bool) -> set[int]:
        """The epochs of `history` whose checkpoints stay."""
        regular = [e["epoch"] for e in history if e["epoch"] % self.save_interval == 0]
        scores = [e["eval"] for e in history if e["eval"]]
        main = next(iter(scores[-1])) if scores else ""
        sound = [e for e in history if e["eval"] and may_win(e["eval"])]
        scored = [(main_score(e["eval"], main), e["epoch"]) for e in sound]
        scored = [(s, epoch) for s, epoch in scored if s is not None]
        scored.sort(key=lambda pair: (-pair[0] if up else pair[0], -pair[1]))
        last = regular if self.keep_last is None else regular[-self.keep_last :]
        return {*last, *(epoch for _, epoch in scored[: self.keep_best or 0])}

    def _write(
        self, state: Mapping[str, Any], names: Sequence[str], unwanted: Sequence[str]
    ) -> None:
        try:
            for name in names:
                if name == "latest":
                    self._remove(unwanted)
                previous = self.run_dir / "previous" if name == "latest" else None
                checkpoint.save(self.run_dir / name, state, previous)
            logger.info(f"Saved {', '.join(names)} in {self.run_dir}", extra=STEP)
        except BaseException as error:
            self._error = error  # raised in the training thread

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            if (self.run_dir / f"{name}.pdstate").exists():
                checkpoint.remove(self.run_dir / name)

    def keep_best_as(self, name: str) -> None:
        """Let the present `best_model`, if there is one, also be `name`."""
        self.wait()
        if (self.run_dir / "best_model.pdstate").exists():
            checkpoint.keep(self.run_dir / "best_model", self.run_dir / name)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
