"""Learning-rate schedules: `schedule(step) -> rate`, a pure function of the update's number.

The trainer sets the rate before every update, so that a resumed run needs no scheduler state.
Names, arguments and values are those of PaddleClas: `warmup_epoch` epochs rise in a line from
`warmup_start_lr` to the schedule's rate, and the schedule proper begins after them. With `by_epoch`
the rate changes only between epochs. A warm-up may also be given in updates, `warmup_steps`, and
its start as a share of the rate, `warmup_start_factor`. Read next: optimizers.py.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

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


@dataclass
class Schedule(ABC):
    """Linear warm-up to `peak`, then `after_warmup`.

    Positions are updates, or epochs with `by_epoch`: `unit` of them make an epoch and `total` the
    run, of which `warmup` belong to the warm-up. A run that is counted in updates says how many,
    `iters`. All rates are multiplied by `scale`, which the recipe sets where `base_batch_size` asks
    for it.

    A schedule that `follows_score` is told the main score of every evaluation, `observe(score)`,
    and a checkpoint keeps what it has seen, `state()` and `load_state(state)`.
    """

    epochs: PositiveInt
    step_each_epoch: PositiveInt
    _: KW_ONLY
    iters: PositiveInt | None = None
    warmup_epoch: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    warmup_start_lr: NonNegativeFloat = 0.0
    warmup_start_factor: Probability | None = None
    by_epoch: bool = False
    last_epoch: Ignored = -1
    verbose: Ignored = False

    scale: ClassVar[float] = 1.0
    follows_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.unit = 1 if self.by_epoch else self.step_each_epoch
        counted = None if self.by_epoch else self.iters
        self.total = counted or self.epochs * self.unit
        self.warmup = self._warmup()
        if self.warmup_start_factor is not None:
            if self.warmup_start_lr:
                raise UserError(
                    "warmup_start_lr and warmup_start_factor both say where the warm-up begins: "
                    "leave one out"
                )
            self.warmup_start_lr = self.peak * self.warmup_start_factor
        # PaddleClas counts so, too: the rates stay, but nobody should find out by the scores.
        if self.warmup >= self.total:
            logger.warning("the whole run is warm-up: it ends at its highest rate")
        if self.warmup and self.warmup_start_lr == 0 and self.unit == 1:
            text = "the whole first epoch has the learning rate 0: set Optimizer.lr.warmup_start_lr"
            logger.warning(text)

    def _warmup(self) -> int:
        """How many updates (or epochs) it has."""
        if self.warmup_steps and (self.warmup_epoch or self.by_epoch):
            other = "warmup_epoch" if self.warmup_epoch else "by_epoch"
            raise UserError(f"warmup_steps and {other} are both given: leave one out")
        wanted = self.warmup_steps or self.warmup_epoch * self.unit
        if wanted > self.total:
            name = "warmup_steps" if self.warmup_steps else "warmup_epoch"
            length = f"{self.total} updates" if self.iters else f"{self.epochs} epochs"
            logger.info("%s %g is cut to the %s of this run", name, getattr(self, name), length)
        return round(min(wanted, self.total))

    @property
    @abstractmethod
    def peak(self) -> float:
        """The rate at the end of the warm-up."""

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


@dataclass
class FromRate(Schedule):
    """A schedule that is given the rate at which it begins."""

    learning_rate: PositiveFloat

    @property
    def peak(self) -> float:
        return self.learning_rate


@register("schedule", aliases=("Constant",))
@dataclass
class ConstLR(FromRate):
    """The same rate throughout; what `lr: {learning_rate: 0.1}` without a name means."""

    def after_warmup(self, position: int) -> float:
        return self.peak


@dataclass
class Falling(FromRate):
    """A schedule that falls until the end of the run.

    decay_epochs: where its end is instead, counted in epochs from the beginning of the run. A rate
    that has come down stays there; a run that ends before has a higher last rate.
    """

    _: KW_ONLY
    decay_epochs: PositiveFloat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        end = self.total if self.decay_epochs is None else round(self.decay_epochs * self.unit)
        self.span = max(0, end - self.warmup)


@register("schedule")
@dataclass
class Linear(Falling):
    """Falls from learning_rate to end_lr along (1 - progress) ** power.

    With `cycle` it starts again from a higher rate whenever it reaches end_lr.
    """

    end_lr: NonNegativeFloat = 0.0
    power: PositiveFloat = 1.0
    cycle: bool = False

    def after_warmup(self, position: int) -> float:
        span = self.span
        if span == 0:
            return self.peak
        if self.cycle:
            span *= max(1, math.ceil(position / span))
        left = 1 - min(position, span) / span
        return self.end_lr + (self.peak - self.end_lr) * left**self.power


@register("schedule")
@dataclass
class Cosine(Falling):
    """Falls from learning_rate to eta_min along half a cosine (arXiv 1608.03983)."""

    eta_min: NonNegativeFloat = 0.0

    def after_warmup(self, position: int) -> float:
        if self.span == 0:
            return self.peak
        progress = min(position, self.span) / self.span
        return self.eta_min + (self.peak - self.eta_min) * (1 + math.cos(math.pi * progress)) / 2


@register("schedule")
@dataclass
class Step(FromRate):
    """Multiplies the rate by gamma every step_size epochs."""

    step_size: PositiveFloat
    gamma: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        # At least one update: a small fraction of a short epoch would round to none.
        self.interval = max(1, int(self.step_size * self.unit))

    def after_warmup(self, position: int) -> float:
        return self.peak * self.gamma ** (position // self.interval)


@register("schedule")
@dataclass
class MultiStepDecay(FromRate):
    """Multiplies the rate by gamma at each of the milestones (epochs after the warm-up)."""

    milestones: list[NonNegativeFloat]
    gamma: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_increasing("milestones", self.milestones)
        self.boundaries = [epoch * self.unit for epoch in self.milestones]

    def after_warmup(self, position: int) -> float:
        return self.peak * self.gamma ** bisect_right(self.boundaries, position)


@register("schedule")
@dataclass
class Piecewise(Schedule):
    """The rates `values`, changing at `decay_epochs` (epochs after the warm-up).

    `learning_rate` alone stands for a tenth of it every 30 epochs. PaddleClas makes that of it even
    where values are given; here a learning_rate that contradicts the values is an error.
    """

    decay_epochs: list[NonNegativeFloat] | None = None
    values: list[NonNegativeFloat] | None = None
    learning_rate: PositiveFloat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        start, ends, values = self.learning_rate, self.decay_epochs, self.values
        if values is None and ends is None and start is not None:
            ends = [float(epoch) for epoch in range(30, self.epochs, 30)]
            values = [start * 0.1**i for i in range(len(ends) + 1)]
        if values is None or ends is None:
            raise UserError("expected both decay_epochs and values, or learning_rate alone")
        if len(values) != len(ends) + 1:
            raise UserError(
                f"values: expected one more than the {len(ends)} decay_epochs, found {len(values)}"
            )
        if start is not None and not math.isclose(start, values[0]):
            raise UserError(
                f"learning_rate {start:g} and values {values} contradict each other: set "
                "the values, or set learning_rate and null for both decay_epochs and values"
            )
        _check_increasing("decay_epochs", ends)
        self.rates = list(values)
        self.boundaries = [epoch * self.unit for epoch in ends]

    @property
    def peak(self) -> float:
        return self.rates[0]

    def after_warmup(self, position: int) -> float:
        return self.rates[bisect_right(self.boundaries, position)]


@register("schedule")
@dataclass
class Cyclic(Schedule):
    """Rises and falls between two rates in triangles (Smith 2015, arXiv 1506.01186).

    `triangular2` halves the height with every cycle, `exp_range` multiplies it by
    exp_gamma ** position. `step_size_up` and `step_size_down` count updates (epochs with
    `by_epoch`).
    """

    base_learning_rate: NonNegativeFloat
    max_learning_rate: PositiveFloat
    step_size_up: PositiveInt
    step_size_down: PositiveInt | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    exp_gamma: PositiveFloat = 1.0
    scale_fn: Ignored = None
    scale_mode: Ignored = "cycle"

    @property
    def peak(self) -> float:
        return self.base_learning_rate

    def after_warmup(self, position: int) -> float:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        cycle, place = divmod(position, up + down)
        height = place / up if place <= up else 1 - (place - up) / down
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle}.get(
            self.mode, self.exp_gamma**position
        )
        return self.peak + (self.max_learning_rate - self.peak) * height * scale


@register("schedule")
@dataclass
class OneCycleLR(Schedule):
    """Rises to max_learning_rate and falls to end_learning_rate within the run.

    Smith and Topin 2017 (arXiv 1708.07120). The rise from max_learning_rate / divide_factor takes
    the share `phase_pct` of the run; with `three_phase` the rate falls as long again to where it
    began before the last, long fall. Leave out the warm-up, which would cut off the cycle's end.
    """

    max_learning_rate: PositiveFloat
    divide_factor: PositiveFloat = 25.0
    end_learning_rate: NonNegativeFloat = 1e-10
    phase_pct: Probability = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    three_phase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.three_phase and self.phase_pct >= 0.5:
            raise UserError(
                f"phase_pct: expected less than 0.5 with three_phase, found {self.phase_pct}"
            )
        initial, rise = self.peak / self.divide_factor, self.phase_pct * self.total
        points = [(0.0, initial), (rise - 1, self.peak)]
        if self.three_phase:
            points.append((2 * rise - 2, initial))
        self.points = [*points, (float(self.total - 1), self.end_learning_rate)]

    @property
    def peak(self) -> float:
        return self.max_learning_rate

    def after_warmup(self, position: int) -> float:
        for (start, first), (end, last) in pairwise(self.points):
            if position <= end and end > start:
                progress = (position - start) / (end - start)
                if self.anneal_strategy == "cos":
                    progress = (1 - math.cos(math.pi * progress)) / 2
                return first + (last - first) * progress
        return self.points[-1][1]


@register("schedule")
@dataclass
class ReduceOnPlateau(FromRate):
    """Multiplies the rate by factor after `patience` evaluations without a better score.

    The scores that the trainer reports with `observe` are the state, and the rate follows from
    them. `mode: max` takes a higher score as better; PaddleClas defaults to `min`, which lowers the
    rate while the network gets better.

    Args:
        threshold: how much better a score must be to count: relative to the best one, or as a
            difference with `threshold_mode: abs`.
        cooldown: evaluations to wait after a reduction.
        epsilon: a reduction by less than this is not made.
    """

    mode: Literal["max", "min"] = "max"
    factor: Probability = 0.1
    patience: NonNegativeInt = 10
    threshold: NonNegativeFloat = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: NonNegativeInt = 0
    min_lr: NonNegativeFloat = 0.0
    epsilon: NonNegativeFloat = 1e-8

    follows_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor >= 1:
            raise UserError(f"factor: expected less than 1, found {self.factor:g}")
        self.scores: list[float] = []
        self.rate = self.peak

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
            if math.isfinite(score) and (best is None or self._is_better(score, best)):
                best, bad = score, 0
            else:
                bad += 1
            if bad > self.patience:
                waiting, bad = self.cooldown, 0
                reduced = max(rate * self.factor, self.min_lr)
                rate = reduced if rate - reduced > self.epsilon else rate
        return rate

    def _is_better(self, score: float, best: float) -> bool:
        margin = self.threshold * best if self.threshold_mode == "rel" else self.threshold
        sign = 1.0 if self.mode == "max" else -1.0
        return sign * score > sign * best + margin


def _check_increasing(name: str, epochs: Sequence[float]) -> None:
    if any(b <= a for a, b in pairwise(epochs)):
        raise UserError(f"{name}: expected increasing epochs, found {list(epochs)}")
