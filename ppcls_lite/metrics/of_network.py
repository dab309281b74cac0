"""A metric of one network among several, shown under its name: `Teacher_top1`.

Read before: topk.py, ../engine/tasks.py (`Distilled`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paddle import Tensor

from ppcls_lite.metrics.base import Metric, State


class OfNetwork(Metric):
    """`metric` of the outputs of `network` in a distillation."""

    def __init__(self, metric: Metric, network: str) -> None:
        super().__init__()
        self.metric = metric
        self.network = network
        self.higher_is_better = metric.higher_is_better

    def reset(self) -> None:
        self.metric.reset()

    def update(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> None:
        self.metric.update(outputs[self.network], batch)

    collect = update

    def result(self) -> dict[str, float]:
        """The metric's scores, each with the network's name in front."""
        return {f"{self.network}_{name}": score for name, score in self.metric.result().items()}

    def compute(self, state: State) -> dict[str, float]:
        return {f"{self.network}_{n}": score for n, score in self.metric.compute(state).items()}

    def state(self) -> State:
        return self.metric.state()

    def load_state(self, state: State) -> None:
        self.metric.load_state(state)

    def merge(self, states: Iterable[State]) -> None:
        self.metric.merge(states)
