"""Two-class detection quality at a bounded rate of false alarms. Read before: base.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses.targets import logits_of
from ppcls_lite.metrics.base import CountingMetric, Outputs, State

# Thresholds in steps of 1e-4, as PaddleClas scans them: published scores stay comparable, and
# counts of images between two thresholds are all that has to be kept.
_THRESHOLDS = np.arange(10_000) / 10_000


@register("metric")
@dataclass(eq=False)
class TprAtFpr(CountingMetric):
    """The best true-positive rate among the thresholds with a false-positive rate <= max_fpr.

    For two classes; class 1 is the positive one, its softmax probability the score. `tpr` comes
    with the `threshold` that reaches it (the lowest, scores above it are positive) and its `fpr`.
    """

    max_fpr: Probability = 0.001

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        logits = logits_of(outputs)
        if logits.shape[1] != 2:
            raise UserError(
                f"TprAtFpr is for two classes, the network has {logits.shape[1]} outputs: "
                "use TopkAcc, or set Arch.class_num to 2"
            )
        score = F.softmax(logits, axis=1)[:, 1].numpy().astype(np.float64)  # (N,)
        # A score lies above that many thresholds.
        above = np.searchsorted(_THRESHOLDS, score, side="left")
        positive = batch["label"].numpy().reshape(-1) != 0
        bins = len(_THRESHOLDS) + 1
        self.add(
            positive=np.bincount(above[positive], minlength=bins),
            negative=np.bincount(above[~positive], minlength=bins),
        )

    def compute(self, state: State) -> dict[str, float]:
        rates = {}
        for name, counts in state.items():
            if counts.sum() == 0:
                raise UserError(
                    f"TprAtFpr: the evaluation set has no {name} image (class "
                    f"{int(name == 'positive')}); it needs both classes"
                )
            # Images above threshold i: all whose count of passed thresholds is more than i.
            rates[name] = counts[:0:-1].cumsum()[::-1] / counts.sum()  # (thresholds,)
        allowed = rates["negative"] <= self.max_fpr
        if not allowed.any():
            return {"tpr": 0.0, "fpr": 0.0, "threshold": 1.0}
        best = int(np.argmax(np.where(allowed, rates["positive"], -1.0)))
        tpr, fpr = (float(rates[name][best]) for name in ("positive", "negative"))
        return {"tpr": tpr, "fpr": fpr, "threshold": float(_THRESHOLDS[best])}
