"""Schedules that rise as well as fall: Cyclic and OneCycleLR. Read before: schedule.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Ignored,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from ppcls_lite.errors import UserError
from ppcls_lite.optim.schedule import Schedule


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
    began before the last, long fall. The cycle is as long as the run, so leave out the warm-up,
    which is only here because PaddleClas has it, and which would cut off the cycle's end.
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
