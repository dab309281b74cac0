"""The plan of a run: how long it is, how often it does what, and what ends it early.

Read next: trainer.py, which follows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """`epochs` epochs, of which `update_freq` batches make one update.

    A line is printed every `print_batch_step` updates. The network is scored every `eval_interval`
    epochs from `start_eval_epoch` on, and after the last one. `early_stop` evaluations without a
    better score end the run, `max_minutes` interrupt it.
    """

    epochs: int
    update_freq: int = 1
    print_batch_step: int = 10
    eval_interval: int = 1
    start_eval_epoch: int = 0
    early_stop: int | None = None
    max_minutes: float | None = None

    def steps(self, batches: int) -> int:
        """Updates per epoch of `batches` batches; the last one takes those that are left."""
        return math.ceil(batches / self.update_freq)

    def is_evaluated(self, epoch: int) -> bool:
        """Whether the network is scored after `epoch` (from 1)."""
        due = epoch >= self.start_eval_epoch and epoch % self.eval_interval == 0
        return due or epoch == self.epochs

    def goes_on(self, epoch: int, evaluations: int) -> bool:
        """Whether `epoch` is to be trained, `evaluations` after the best score."""
        return epoch <= self.epochs and (self.early_stop is None or evaluations < self.early_stop)

    def title(self, epoch: int) -> str:
        """`epoch` as the log lines name it."""
        return f"[Epoch {epoch}/{self.epochs}]"

    def done(self, epoch: int, step: int, steps: int) -> str:
        """In words: `step` of the `steps` updates of `epoch` are done."""
        if step:
            return f"in epoch {epoch}, after step {step} of {steps}"
        return f"after epoch {epoch - 1} of {self.epochs}"
