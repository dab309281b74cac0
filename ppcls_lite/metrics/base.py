"""The contract of a metric, and the two ways of collecting: adding counts, or keeping scores.

What was collected is the metric's *state*, a dict of arrays. The states of several processes or
parts of a data set merge into that of the whole, so that a score depends neither on the number of
cards nor on the batch size. Read next: topk.py, confusion.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppcls_lite.metrics.certainty import Certainty, Wish
from ppcls_lite.ops.intervals import Interval

State = dict[str, np.ndarray]
Outputs = Tensor | Mapping[str, Any]  # logits (N, C), or a dict with them under "logits"


def answered(logits: Tensor) -> Tensor:
    """Which images have an answer (N,) bool: all logits (N, C) finite. The others are wrong."""
    return paddle.isfinite(logits).all(axis=1)


class Metric(ABC):
    """One or several named scores; the first of them is the main one.

    `higher_is_better` is of the main score; `reports`: whether `report` writes anything; `paths`:
    the files of the images, for a report that names some.
    """

    paths: Sequence[str] = ()

    higher_is_better: bool = True
    reports: bool = False

    def __init__(self) -> None:
        self.reset()

    __post_init__ = __init__  # of the metrics that are dataclasses

    def reset(self) -> None:
        """Forget everything."""
        self._seen: dict[str, Any] = {}

    def see(self, dataset: Any) -> None:  # noqa: B027 (most ask for nothing)
        """Told once whose images are scored, for a metric that asks about one beyond its batch."""

    def update(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        """Take in one batch: the network's outputs and `batch["label"]`."""
        with paddle.no_grad():
            self.collect(outputs, batch)

    def result(self) -> dict[str, float]:
        """The scores over everything taken in; empty if that is nothing."""
        return self.compute(self.state()) if self._seen else {}

    def load_state(self, state: State) -> None:
        """Continue from what `state()` returned."""
        self._seen = dict(state)

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write tables and pictures into `folder`, with the classes' names; returns the files."""
        return []

    def summary(self, names: Sequence[str] | None = None) -> list[str]:
        """Lines for a terminal: what went wrong, the worst first."""
        return []

    def intervals(self) -> dict[str, Interval]:
        """How sure scores are, by their names."""
        return {}

    def certainty(self, wish: Wish) -> Certainty | None:
        """Arguments of the post-processing that fulfil a `wish`; None: not a matter of this metric.

        Raises UserError where no threshold does.
        """
        return None

    def pictures(self) -> dict[str, np.ndarray]:
        """What a training shows of each evaluation, (H, W, 3) uint8 by name."""
        return {}

    def of_network(self, network: str) -> Metric | None:
        """This metric of another network of a distillation; None if that is not to be shown."""
        return None

    @abstractmethod
    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        """`update` without a gradient."""

    @abstractmethod
    def compute(self, state: State) -> dict[str, float]:
        """The scores of a state."""

    @abstractmethod
    def state(self) -> State:
        """What was collected, as arrays."""

    @abstractmethod
    def merge(self, states: Iterable[State]) -> None:
        """Load the state of the whole from the states of its parts."""


class CountingMetric(Metric):
    """Keeps sums: `merge` adds them up, exactly for counts."""

    def add(self, **counts: Tensor | np.ndarray) -> None:
        """Add to the sums. Tensors stay on their device until `state()`, so nothing waits."""
        for name, value in counts.items():
            total = self._seen.get(name, 0)
            if isinstance(value, Tensor) and isinstance(total, np.ndarray):  # after load_state
                total = paddle.to_tensor(total)
            self._seen[name] = total + value

    def state(self) -> State:
        return {name: np.asarray(value) for name, value in self._seen.items()}

    def merge(self, states: Iterable[State]) -> None:
        self.reset()
        for state in states:
            self.add(**state)


class ScoringMetric(Metric):
    """Keeps every score: `merge` puts them one after another along the first axis."""

    def append(self, **values: Tensor | np.ndarray) -> None:
        """Keep arrays whose first axis is the batch."""
        for name, value in values.items():
            self._seen.setdefault(name, []).append(np.asarray(value))

    def load_state(self, state: State) -> None:
        self.merge([state])

    def state(self) -> State:
        return {name: np.concatenate(parts) for name, parts in self._seen.items()}

    def merge(self, states: Iterable[State]) -> None:
        self.reset()
        for state in states:
            self.append(**state)


class OfNetwork(Metric):
    """`metric` of the outputs of `network` in a distillation, shown as `Teacher_top1`."""

    def __init__(self, metric: Metric, network: str) -> None:
        self.metric, self.network = metric, network
        self.higher_is_better = metric.higher_is_better

    def reset(self) -> None:
        self.metric.reset()

    def update(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> None:
        self.metric.update(outputs[self.network], batch)

    collect = update

    def result(self) -> dict[str, float]:
        return {f"{self.network}_{name}": score for name, score in self.metric.result().items()}

    def compute(self, state: State) -> dict[str, float]:
        return {f"{self.network}_{n}": score for n, score in self.metric.compute(state).items()}

    def state(self) -> State:
        return self.metric.state()

    def load_state(self, state: State) -> None:
        self.metric.load_state(state)

    def merge(self, states: Iterable[State]) -> None:
        self.metric.merge(states)
