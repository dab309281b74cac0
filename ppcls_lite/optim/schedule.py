"""Learning-rate schedules: `schedule(step) -> rate`, a pure function of the update's number.

The trainer sets the rate before every update, so that a resumed run needs no scheduler state; only
`ReduceOnPlateau` has one. Names, arguments and values are those of PaddleClas, counted as it
counts: `warmup_epoch` epochs rise in a line from `warmup_start_lr` to the schedule's rate, and the
schedule proper begins after them. With `by_epoch` the rate changes only between epochs.
Read next: schedule_cyclic.py (Cyclic, OneCycleLR), optim.py.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Ignored,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")


class Schedule(ABC):
    """Linear warm-up to `peak`, then `after_warmup`.

    Positions are updates, or epochs with `by_epoch`: `unit` of them make an epoch and `total` the
    run, of which `warmup` belong to the warm-up. All rates are multiplied by `scale`, which the
    recipe sets where `base_batch_size` asks for it. One that `follows_score` has `observe`, `state`
    and `load_state` too.
    """

    follows_score = False

    def __init__(
        self,
        peak: float,
        epochs: int,
        step_each_epoch: int,
        warmup_epoch: float,
        warmup_start_lr: float,
        by_epoch: bool,
    ) -> None:
        if warmup_epoch > epochs:
            logger.info("warmup_epoch %g is cut to the %d epochs of this run", warmup_epoch, epochs)
            warmup_epoch = epochs
        self.scale = 1.0
        self.peak = peak
        self.warmup_start_lr = warmup_start_lr
        self.step_each_epoch = step_each_epoch
        self.by_epoch = by_epoch
        self.unit = 1 if by_epoch else step_each_epoch
        self.total = epochs * self.unit
        self.warmup = round(warmup_epoch * self.unit)

    def __call__(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        position = step // self.step_each_epoch if self.by_epoch else step
        if position < self.warmup:
            rise = (self.peak - self.warmup_start_lr) * position / self.warmup
            return self.scale * (self.warmup_start_lr + rise)
        return self.scale * self.after_warmup(position - self.warmup)

    @abstractmethod
    def after_warmup(self, position: int) -> float:
        """The rate `position` updates (or epochs) after the warm-up."""


@register("schedule", aliases=("Constant",))
class ConstLR(Schedule):
    """The same rate throughout; what `lr: {learning_rate: 0.1}` without a name means."""

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        learning_rate: PositiveFloat,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        super().__init__(
            learning_rate, epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )

    def after_warmup(self, position: int) -> float:
        return self.peak


@register("schedule")
class Linear(Schedule):
    """Falls from learning_rate to end_lr along (1 - progress) ** power.

    With `cycle` it starts again from a higher rate whenever it reaches end_lr.
    """

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        learning_rate: PositiveFloat,
        end_lr: NonNegativeFloat = 0.0,
        power: PositiveFloat = 1.0,
        cycle: bool = False,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        super().__init__(
            learning_rate, epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )
        self.end_lr = end_lr
        self.power = power
        self.cycle = cycle

    def after_warmup(self, position: int) -> float:
        span = self.total - self.warmup
        if span == 0:
            return self.peak
        if self.cycle:
            span *= max(1, math.ceil(position / span))
        left = 1 - min(position, span) / span
        return self.end_lr + (self.peak - self.end_lr) * left**self.power


@register("schedule")
class Cosine(Schedule):
    """Falls from learning_rate to eta_min along half a cosine (arXiv 1608.03983)."""

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        learning_rate: PositiveFloat,
        eta_min: NonNegativeFloat = 0.0,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        super().__init__(
            learning_rate, epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )
        self.eta_min = eta_min

    def after_warmup(self, position: int) -> float:
        span = self.total - self.warmup
        if span == 0:
            return self.peak
        progress = min(position, span) / span
        return self.eta_min + (self.peak - self.eta_min) * (1 + math.cos(math.pi * progress)) / 2


@register("schedule")
class Step(Schedule):
    """Multiplies the rate by gamma every step_size epochs."""

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        learning_rate: PositiveFloat,
        step_size: PositiveFloat,
        gamma: PositiveFloat = 0.1,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        super().__init__(
            learning_rate, epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )
        # At least one update: a small fraction of a short epoch would round to none.
        self.interval = max(1, int(step_size * self.unit))
        self.gamma = gamma

    def after_warmup(self, position: int) -> float:
        return self.peak * self.gamma ** (position // self.interval)


@register("schedule")
class MultiStepDecay(Schedule):
    """Multiplies the rate by gamma at each of the milestones (epochs after the warm-up)."""

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        learning_rate: PositiveFloat,
        milestones: list[NonNegativeFloat],
        gamma: PositiveFloat = 0.1,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        super().__init__(
            learning_rate, epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )
        _check_increasing("milestones", milestones)
        self.boundaries = [epoch * self.unit for epoch in milestones]
        self.gamma = gamma

    def after_warmup(self, position: int) -> float:
        return self.peak * self.gamma ** bisect_right(self.boundaries, position)


@register("schedule")
class Piecewise(Schedule):
    """The rates `values`, changing at `decay_epochs` (epochs after the warm-up).

    `learning_rate` alone stands for a tenth of it every 30 epochs, which is what PaddleClas makes
    of it even where values are given. Its MobileNetV1 recipes give both, in agreement; a
    learning_rate that contradicts the values is an error here.
    """

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        decay_epochs: list[NonNegativeFloat] | None = None,
        values: list[NonNegativeFloat] | None = None,
        learning_rate: PositiveFloat | None = None,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        if values is None and decay_epochs is None and learning_rate is not None:
            decay_epochs = [float(epoch) for epoch in range(30, epochs, 30)]
            values = [learning_rate * 0.1**i for i in range(len(decay_epochs) + 1)]
        if values is None or decay_epochs is None:
            raise UserError("expected both decay_epochs and values, or learning_rate alone")
        if len(values) != len(decay_epochs) + 1:
            raise UserError(
                f"values: expected one more than the {len(decay_epochs)} decay_epochs, "
                f"found {len(values)}"
            )
        if learning_rate is not None and not math.isclose(learning_rate, values[0]):
            raise UserError(
                f"learning_rate {learning_rate:g} and values {values} contradict each other: set "
                "the values, or set learning_rate and null for both decay_epochs and values"
            )
        super().__init__(
            values[0], epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )
        _check_increasing("decay_epochs", decay_epochs)
        self.values = list(values)
        self.boundaries = [epoch * self.unit for epoch in decay_epochs]

    def after_warmup(self, position: int) -> float:
        return self.values[bisect_right(self.boundaries, position)]


@register("schedule")
class ReduceOnPlateau(Schedule):
    """Multiplies the rate by factor after `patience` evaluations without a better score.

    The trainer reports the main score of every evaluation with `observe`; the scores are the
    state, and the rate follows from them. `mode: max` (the default) takes a higher score as
    better, as for accuracy. PaddleClas also observes the score but defaults to `min`, which lowers
    the rate while the network gets better.

    Args:
        threshold: how much better a score must be to count: relative to the best one, or as a
            difference with `threshold_mode: abs`.
        cooldown: evaluations to wait after a reduction.
        epsilon: a reduction by less than this is not made.
    """

    follows_score = True

    def __init__(
        self,
        epochs: PositiveInt,
        step_each_epoch: PositiveInt,
        learning_rate: PositiveFloat,
        mode: Literal["max", "min"] = "max",
        factor: Probability = 0.1,
        patience: NonNegativeInt = 10,
        threshold: NonNegativeFloat = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: NonNegativeInt = 0,
        min_lr: NonNegativeFloat = 0.0,
        epsilon: NonNegativeFloat = 1e-8,
        warmup_epoch: NonNegativeFloat = 0.0,
        warmup_start_lr: NonNegativeFloat = 0.0,
        by_epoch: bool = False,
        last_epoch: Ignored = -1,
        verbose: Ignored = False,
    ) -> None:
        super().__init__(
            learning_rate, epochs, step_each_epoch, warmup_epoch, warmup_start_lr, by_epoch
        )
        if factor >= 1:
            raise UserError(f"factor: expected less than 1, found {factor:g}")
        self.sign = 1.0 if mode == "max" else -1.0
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.relative = threshold_mode == "rel"
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.epsilon = epsilon
        self.scores: list[float] = []
        self.rate = learning_rate

    def observe(self, score: float) -> None:
        """Take in the main score of one evaluation."""
        self.scores.append(float(score))
        self.rate = self._replay()

    def state(self) -> dict[str, Any]:
        """All observed scores, for a checkpoint."""
        return {"scores": list(self.scores)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state()` returned."""
        self.scores = [float(score) for score in state["scores"]]
        self.rate = self._replay()

    def after_warmup(self, position: int) -> float:
        return self.rate

    def _replay(self) -> float:
        """The rate after all observed scores."""
        rate, best, bad, waiting = self.peak, None, 0, 0
        for score in self.scores:
            if waiting:
                waiting -= 1
                continue
            if best is None or self._is_better(score, best):
                best, bad = score, 0
            else:
                bad += 1
            if bad > self.patience:
                waiting, bad = self.cooldown, 0
                reduced = max(rate * self.factor, self.min_lr)
                rate = reduced if rate - reduced > self.epsilon else rate
        return rate

    def _is_better(self, score: float, best: float) -> bool:
        margin = self.threshold * best if self.relative else self.threshold
        return self.sign * score > self.sign * best + margin


def _check_increasing(name: str, epochs: Sequence[float]) -> None:
    if any(b <= a for a, b in pairwise(epochs)):
        raise UserError(f"{name}: expected increasing epochs, found {list(epochs)}")
