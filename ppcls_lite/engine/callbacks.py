"""A user's own code in a run: what is called when, what it sees, and how it ends the run.

Loggers are something else (record.py): they only mirror records, and an error in one costs no run.
Read next: trainer.py, which calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle import nn

from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.signals import StopSignals
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")


@dataclass(frozen=True)
class FitResult:
    """How a run ended: its folder, best and last evaluation, and the signal that stopped it.

    `exit_code` is 0 if the run is complete or a callback stopped it; 130 after Ctrl-C, 143 after
    SIGTERM, 75 after SIGUSR1 or `max_minutes`: then everything is saved and it can be resumed.
    `complete`: whether no epoch is left to be trained. `why`: what stopped it, in words.
    `is_pause`: whether who stopped it wants no words about how to go on.
    """

    run_dir: Path
    best: dict[str, float]
    last: dict[str, float]
    stopped_by: int | None = None
    exit_code: int = 0
    complete: bool = True
    why: str = ""
    is_pause: bool = False


class Progress:
    """How far a run has come, for a callback."""

    def __init__(
        self,
        state: TrainingState,
        plan: Plan,
        run_dir: Path,
        stop: StopSignals,
        higher_is_better: bool,
    ) -> None:
        self._state, self._plan, self._stop = state, plan, stop
        self.run_dir = run_dir
        self.higher_is_better = higher_is_better  # the main score

    @property
    def epoch(self) -> int:
        """The running epoch, from 1; between two epochs the one to come."""
        return self._state.epoch

    @property
    def epochs(self) -> int:
        """How many the run is to have."""
        return self._plan.epochs

    @property
    def updates(self) -> int:
        """Updates since the run began, before resumes included."""
        return self._state.updates

    @property
    def model(self) -> nn.Layer:
        """The network that is trained, to look at; what changes it changes the run."""
        return self._state.task.model

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One entry for each finished epoch: epoch, lr, means in `train`, scores in `eval`.

        The main score is the first; `eval` is None where the epoch was not evaluated.
        """
        return self._state.history

    @property
    def best(self) -> Mapping[str, Any]:
        """The epoch and the scores of the best evaluation so far; empty before the first."""
        return self._state.best

    def stop(self, why: str, is_pause: bool = False) -> None:
        """End the run after the present update, saved as for a resume; `why` is for the log.

        is_pause: the caller goes on with it later, or leaves it, and says so itself: the log has
        one quiet line, without a summary and the command that continues.
        """
        self._stop.ask(why, is_pause)


class Callback:
    """Called during a training; derive from it and write the methods that you need.

    They run in the training's process, of several ranks on the first only, between two updates.
    An error in one ends the run, with its state saved.
    """

    def on_start(self, run: Progress) -> None:
        """Before the first update, of a new run or of one that is resumed."""

    def on_step(self, run: Progress, values: Mapping[str, float]) -> None:
        """Every `Global.print_batch_step` updates: rate, means since the epoch's start, costs."""

    def on_epoch(self, run: Progress, done: Mapping[str, Any]) -> None:
        """After an epoch is evaluated and saved; `done` is its entry, the last of `run.history`."""

    def on_end(self, run: Progress, result: FitResult) -> None:
        """When the run has ended, completely or not, without an error."""


class Callbacks:
    """Several callbacks in their order; nothing where the process is not `active` (other ranks)."""

    def __init__(self, callbacks: Sequence[Callback], run: Progress, active: bool) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise UserError(
                    f"callbacks: expected objects of classes that derive from ppcls_lite.Callback, "
                    f"found {callback!r:.100}"
                )
        self._callbacks, self._run = callbacks if active else (), run

    def start(self) -> None:
        self._each("on_start", lambda c: c.on_start(self._run))

    def step(self, values: Mapping[str, float]) -> None:
        self._each("on_step", lambda c: c.on_step(self._run, values))

    def epoch(self) -> None:
        self._each("on_epoch", lambda c: c.on_epoch(self._run, self._run.history[-1]))

    def end(self, result: FitResult) -> None:
        self._each("on_end", lambda c: c.on_end(self._run, result))

    def _each(self, name: str, call: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            try:
                call(callback)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{name} of the callback {type(callback).__name__} failed: "
                    f"{type(error).__name__}: {error}"
                ) from error
