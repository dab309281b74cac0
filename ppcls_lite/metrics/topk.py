"""Scores of one class per image: top-k accuracy, and detection at a bounded rate of false alarms.

Read next: confusion.py for the scores of each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses.targets import is_soft, logits_of, output_of
from ppcls_lite.metrics.base import CountingMetric, Metric, OfNetwork, Outputs, State, answered
from ppcls_lite.ops.intervals import Interval, wilson

# Thresholds in steps of 1e-4, as PaddleClas scans them: published scores stay comparable, and
# counts of images between two thresholds are all that has to be kept.
_THRESHOLDS = np.arange(10_000) / 10_000


@register("metric")
class TopkAcc(CountingMetric):
    """Share of images whose class is among the k highest logits: `top1`, `top5`.

    A k above the number of classes counts all classes. Of a soft label the largest entry is the
    class. Images without label (-1) do not count; where all are such there is no score. Logits
    that are not finite are a wrong answer.
    """

    def __init__(self, topk: ClassCount | list[ClassCount] = (1, 5)) -> None:
        super().__init__()
        self.topk = [topk] if isinstance(topk, int) else list(topk)
        if not self.topk:
            raise UserError("topk: expected a number or a list of numbers, found an empty list")

    def of_network(self, network: str) -> Metric:
        return OfNetwork(TopkAcc(self.topk), network)

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        logits, label = logits_of(outputs), batch["label"]
        if is_soft(label, logits.shape[1]):
            label = label.argmax(axis=1)
        label = label.reshape([-1, 1]).astype(paddle.int64)  # (N, 1)
        limits = [min(k, logits.shape[1]) for k in self.topk]
        best = logits.topk(max(limits), axis=1)[1]  # (N, K)
        right = (best == label) & answered(logits).unsqueeze(1)
        hits = right.astype(paddle.int64).sum(axis=0).cumsum()  # (K,): within the top k
        self.add(
            **{f"top{k}": hits[limit - 1] for k, limit in zip(self.topk, limits)},
            images=(label >= 0).astype(paddle.int64).sum(),
        )

    def compute(self, state: State) -> dict[str, float]:
        if not state["images"]:
            return {}
        return {f"top{k}": float(state[f"top{k}"] / state["images"]) for k in self.topk}

    def intervals(self) -> dict[str, Interval]:
        state = self.state()
        images = int(state["images"])
        return {f"top{k}": wilson(int(state[f"top{k}"]), images) for k in self.topk if images}


@register("metric")
class DistillationTopkAcc(TopkAcc):
    """`TopkAcc` of one of the networks of a distillation, by default the student's.

    model_key: its name in `Arch.models`. feature_key: the name of its logits where it returns
    several outputs. Where no network has that name, the logits are taken as they are.
    """

    def __init__(
        self,
        model_key: str | None = "Student",
        feature_key: str | None = None,
        topk: ClassCount | list[ClassCount] = (1, 5),
    ) -> None:
        super().__init__(topk)
        self.model_key = model_key
        self.feature_key = feature_key

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        key = self.model_key or "Student"
        if isinstance(outputs, Mapping) and (key in outputs or "logits" not in outputs):
            outputs = output_of(outputs, key, self.feature_key)
        super().collect(outputs, batch)


@register("metric")
@dataclass(eq=False)
class TprAtFpr(CountingMetric):
    """The best true-positive rate among the thresholds with a false-positive rate <= max_fpr.

    For two classes; class 1 is the positive one, its softmax probability the score. `tpr` comes
    with the `threshold` that reaches it (the lowest, scores above it are positive) and its `fpr`.
    Images without label (-1) do not count; outputs that are not finite are wrong at any threshold.
    """

    max_fpr: Probability = 0.001

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        logits = logits_of(outputs)
        if logits.shape[1] != 2:
            raise UserError(
                f"TprAtFpr is for two classes, the network has {logits.shape[1]} outputs: "
                "use TopkAcc, or set Arch.class_num to 2"
            )
        label = batch["label"]
        if is_soft(label, 2):
            label = label.argmax(axis=1)
        label = label.numpy().reshape(-1)  # (N,)
        score = F.softmax(logits, axis=1)[:, 1].numpy().astype(np.float64)  # (N,)
        # no answer is a wrong one, whatever the threshold
        score = np.where(answered(logits).numpy(), score, np.where(label > 0, -1.0, 2.0))
        score, positive = score[label >= 0], label[label >= 0] > 0  # the labelled images
        # A score lies above that many thresholds.
        above = np.searchsorted(_THRESHOLDS, score, side="left")
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
