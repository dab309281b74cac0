"""The learning rate by trial: a few updates at growing rates, after which nothing has changed.

The rate grows by the same factor from update to update, and the loss of each batch is noted until
it runs away (Smith 2015, arXiv 1506.01186, section 3.3). The loss is smoothed over neighbouring
rates, by a bell of `WIDTH` updates.

The rule of the suggestion: where the smoothed loss is lowest the rate is about to be too high, so
the suggestion is a tenth of that rate (`MARGIN`). Where the loss did not fall by more than its own
noise there is none.
Read before: trainer.py. Read next: ../recipe/lr.py.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_lite.engine.evaluate import Loader
from ppcls_lite.engine.meters import NotFiniteError
from ppcls_lite.engine.tasks import Batch
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState

WIDTH = 3.0  # standard deviation of the smoothing, in updates
MARGIN = 10.0  # by how much the suggestion is below the rate of the lowest loss
RUNAWAY = 2.0  # times the loss that it began with: the sweep ends
CLEAR = 6.0  # standard deviations of the smoothed loss by which it has to fall for a suggestion
LEAST = 10  # losses without which there is none
START = 0.1  # share of the sweep whose mean the loss falls from


@dataclass(frozen=True)
class RateCurve:
    """What a sweep found: the loss at each rate, as it was and smoothed, in the order tried."""

    rates: Sequence[float]
    losses: Sequence[float]

    @property
    def smoothed(self) -> list[float]:
        """The losses as means over their neighbours."""
        values, place = np.asarray(self.losses), np.arange(len(self.losses))
        bell = np.exp(-0.5 * ((place[:, None] - place) / WIDTH) ** 2)  # (N, N)
        return (bell @ values / bell.sum(axis=1)).tolist()

    @property
    def lowest(self) -> float | None:
        """The rate of the lowest smoothed loss; None where it never fell."""
        if len(self.losses) < LEAST:
            return None
        smoothed, losses = np.asarray(self.smoothed), np.asarray(self.losses)
        place = int(np.argmin(smoothed))
        start = losses[: round(START * len(losses))].mean()
        # The median step of pure noise is 0.95 standard deviations, whatever a few large ones are;
        # a mean over a bell of standard deviation W has 1 / (2 W sqrt(pi)) of the variance.
        noise = np.median(np.abs(np.diff(losses))) / 0.95
        noise /= math.sqrt(2 * WIDTH * math.sqrt(math.pi))
        return self.rates[place] if start - smoothed[place] > CLEAR * noise else None

    @property
    def suggestion(self) -> float | None:
        """The rate to train at, two digits; None where the loss never fell."""
        lowest = self.lowest
        return None if lowest is None else float(f"{lowest / MARGIN:.2g}")


def sweep(
    trainer: Trainer,
    low: float,
    high: float,
    steps: int,
    on_step: Callable[[float, float], None] = lambda rate, loss: None,
) -> RateCurve:
    """Train `steps` updates at rates from `low` to `high`, and take them all back.

    `on_step(rate, loss)` is told each. The sweep ends early where the loss runs away or is no
    number. Weights, statistics, averages, generators and the optimizer's state are afterwards what
    they were, bit by bit, also after an error.
    """
    state = trainer.state
    rates = np.geomspace(low, high, steps).tolist()
    tried: list[float] = []
    losses: list[float] = []
    with _taken_back(state):
        state.schedule = lambda step: rates[min(step, steps - 1)]  # type: ignore[assignment]
        state.epoch, state.step_in_epoch = 1, 0
        state.ema, state.metrics = None, []
        state.task.train()
        updates = _endless(trainer.loader, trainer.plan.update_freq)
        recent = first = None
        for rate, batches in zip(rates, updates):
            state.meters.reset()
            trainer.step(batches)
            try:
                loss = state.meters.means().get("loss", math.nan)
            except NotFiniteError:
                break
            if not math.isfinite(loss):  # an update that AMP has skipped
                continue
            tried.append(rate)
            losses.append(loss)
            on_step(rate, loss)
            recent = loss if recent is None else 0.7 * recent + 0.3 * loss
            if len(losses) == LEAST:
                first = recent
            if first is not None and recent > RUNAWAY * first:
                break
        updates.close()
    return RateCurve(tried, losses)


def _endless(loader: Loader, update_freq: int) -> Generator[list[Batch], None, None]:
    """The batches of update after update, over as many epochs as it takes."""
    for epoch in itertools.count(1):
        batches = iter(loader.epoch(epoch))
        while group := list(itertools.islice(batches, update_freq)):
            yield group


@contextlib.contextmanager
def _taken_back(state: TrainingState) -> Iterator[None]:
    """Whatever the block trains has not been trained when it ends."""
    attributes = vars(state).copy()
    training = state.task.model.training
    before, saved = state.remember(), state.collect()
    made = {name: _shell(value) for name, value in vars(state.optimizer).items()}
    try:
        yield
    finally:
        vars(state).update(attributes)
        # A fresh optimizer has no slots yet, and they cannot be emptied, only forgotten.
        vars(state.optimizer).update(made)
        state.go_back(before)
        state.restore(saved, "the state before the sweep")
        if not training:
            state.task.eval()


def _shell(value: Any) -> Any:
    """Copies of containers, all the way down, around the same values."""
    if isinstance(value, dict):
        found = value.copy()
        for key, inside in found.items():
            found[key] = _shell(inside)
        return found
    if isinstance(value, list | set):
        return value.copy()
    return value
