"""Means of the loss terms over an epoch, read from the device only when they are shown.

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
    """Means of named scalars over everything since the last `reset`, as one batch would give them.

    Each counts by the batch's images, or by its own denominator; `loss` is the sum of the others.
    `pass_over`: a step that is not finite is left out, because its update was skipped (AMP).
    """

    def __init__(self, pass_over: bool = False) -> None:
        self.pass_over = pass_over
        self.samples = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}  # of those that do not count by images
        self._pending: list[_Pending] = []

    def add(
        self,
        terms: Mapping[str, Tensor],
        samples: int,
        denominators: Mapping[str, Tensor] | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Note the scalar `terms` of a batch; with an `origin`, they must turn out finite.

        denominators: of the terms that are not means over the batch's `samples`.
        """
        values = {name: term.detach() for name, term in terms.items()}
        self._pending.append((values, samples, dict(denominators or {}), origin))

    def flush(self) -> None:
        """Read what is pending. Raises `NotFiniteError` for the first step that is not finite."""
        pending, self._pending = self._pending, []
        for terms, samples, denominators, origin in pending:
            values = {name: float(term) for name, term in terms.items()}
            if origin is not None and not all(map(math.isfinite, values.values())):
                if self.pass_over:
                    continue
                raise NotFiniteError(origin, values)
            counts = {name: float(count) for name, count in denominators.items()}
            for name in counts:  # an older checkpoint's sums are by images
                self._counts.setdefault(name, float(self.samples))
            self.samples += samples
            _add(self._counts, counts)
            _add(self._sums, {n: value * counts.get(n, samples) for n, value in values.items()})

    def means(self) -> dict[str, float]:
        """The means so far, in the order in which the terms came."""
        self.flush()
        # the sum of a term of which nothing counted is 0
        counts = {n: self._counts.get(n, self.samples) or 1 for n in self._sums}
        found = {name: total / counts[name] for name, total in self._sums.items()}
        if self._counts:
            found["loss"] = sum(value for name, value in found.items() if name != "loss")
        return found

    def reset(self) -> None:
        self.samples = 0
        self._sums.clear()
        self._counts.clear()
        self._pending.clear()

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint in the middle of an epoch."""
        self.flush()
        return {"samples": self.samples, "sums": dict(self._sums), "counts": dict(self._counts)}

    def merge(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Load the sums of several ranks' states."""
        self.reset()
        for saved in states:
            self.samples += saved["samples"]
            _add(self._sums, saved["sums"])
            _add(self._counts, saved.get("counts", {}))  # older checkpoints have none

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self.merge([saved])


_Pending = tuple[dict[str, Tensor], int, dict[str, Tensor], Origin | None]


def _add(totals: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        totals[name] = totals.get(name, 0.0) + value
