"""Averages of the loss terms over an epoch, read from the device only when they are shown.

A GPU computes ahead of Python; reading a loss at every step would make Python wait each time. So
a step only keeps its (tiny) loss tensors, and `flush` turns them into numbers. A loss that is not
finite is noticed there, with the step and the images it came from. Read next: trainer.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle import Tensor

from ppcls_lite.errors import UserError


@dataclass(frozen=True)
class Origin:
    """Where a loss came from: epoch and step in it (from 1), learning rate, image numbers."""

    epoch: int
    step: int
    lr: float
    index: Tensor | None = None


class NotFiniteError(UserError):
    """A loss is NaN or infinite; `origin` and `terms` say which."""

    def __init__(
        self, origin: Origin, terms: Mapping[str, float], message: str = "a loss is not finite"
    ) -> None:
        super().__init__(message)
        self.origin = origin
        self.terms = dict(terms)


class Meters:
    """Sample-weighted means of named scalars since the last `reset`.

    `pass_over`: a step that is not finite is left out, because its update was skipped (AMP).
    """

    def __init__(self, pass_over: bool = False) -> None:
        self.pass_over = pass_over
        self.samples = 0
        self._sums: dict[str, float] = {}
        self._pending: list[tuple[dict[str, Tensor], int, Origin | None]] = []

    def add(self, terms: Mapping[str, Tensor], samples: int, origin: Origin | None = None) -> None:
        """Note the scalar `terms` of a batch; with an `origin`, they must turn out finite."""
        values = {name: term.detach() for name, term in terms.items()}
        self._pending.append((values, samples, origin))

    def flush(self) -> None:
        """Read what is pending. Raises `NotFiniteError` for the first step that is not finite."""
        pending, self._pending = self._pending, []
        for terms, samples, origin in pending:
            values = {name: float(term) for name, term in terms.items()}
            if origin is not None and not all(map(math.isfinite, values.values())):
                if self.pass_over:
                    continue
                raise NotFiniteError(origin, values)
            self.samples += samples
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * samples

    def means(self) -> dict[str, float]:
        """The means so far, in the order in which the terms came."""
        self.flush()
        return {name: total / self.samples for name, total in self._sums.items()}

    def reset(self) -> None:
        self.samples = 0
        self._sums.clear()
        self._pending.clear()

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint in the middle of an epoch."""
        self.flush()
        return {"samples": self.samples, "sums": dict(self._sums)}

    def merge(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Load the sums of several ranks' states."""
        self.reset()
        for saved in states:
            self.samples += saved["samples"]
            for name, value in saved["sums"].items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self.reset()
        self.samples = saved["samples"]
        self._sums.update(saved["sums"])
