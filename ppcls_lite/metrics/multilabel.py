"""Scores for images with several attributes at once: logits (N, C), labels 1, 0, -1 for unknown.

An attribute is predicted where its sigmoid is above one half. Labels come in the shapes that
`losses.targets.attributes_of` reads. Read before: base.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Probability
from ppcls_lite.losses.targets import attributes_of, logits_of
from ppcls_lite.metrics.base import CountingMetric, Outputs, ScoringMetric, State


def _scores_and_labels(
    outputs: Outputs, batch: Mapping[str, Tensor], from_logits: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, C) and labels (N, C); a logit that is not finite scores as the wrong answer.

    The scores are sigmoids, or with `from_logits` the logits themselves.
    """
    logits, label = logits_of(outputs), attributes_of(batch["label"]).numpy()
    score = (logits if from_logits else F.sigmoid(logits)).numpy()
    wrong = np.where(label == 1, -1e30, 1e30).astype(score.dtype)
    return np.where(np.isfinite(logits.numpy()), score, wrong), label


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


@register("metric")
@dataclass(eq=False)
class AccuracyScore(CountingMetric):
    """Share of right attributes (base "label"), or of images with all of them right ("sample")."""

    base: Literal["label", "sample"] = "label"

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        score, label = _scores_and_labels(outputs, batch)
        right, known = (score > 0.5) == (label == 1), label >= 0
        if self.base == "label":
            self.add(right=(right & known).sum(), all=known.sum())
        else:
            some = known.any(axis=1)  # (N,): an image of which nothing is known says nothing
            self.add(right=((right | ~known).all(axis=1) & some).sum(), all=some.sum())

    def compute(self, state: State) -> dict[str, float]:
        if not state["all"]:
            return {}
        return {"AccuracyScore": float(_share(state["right"], state["all"]))}


@register("metric")
class HammingDistance(CountingMetric):
    """Share of wrong attributes: 0 is best."""

    higher_is_better = False

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        score, label = _scores_and_labels(outputs, batch)
        known = label >= 0
        self.add(wrong=(((score > 0.5) != (label == 1)) & known).sum(), all=known.sum())

    def compute(self, state: State) -> dict[str, float]:
        if not state["all"]:
            return {}
        return {"HammingDistance": float(_share(state["wrong"], state["all"]))}


@register("metric")
@dataclass(eq=False)
class ATTRMetric(CountingMetric):
    """Attribute-recognition scores (Li et al. 2016, "RAP", arXiv 1603.07054).

    `mA`: mean over the attributes of the mean of positive and negative recall. `label_f1`,
    `label_pos_recall`, `label_neg_recall`: means over the attributes. `ins_precision`,
    `ins_recall`, `ins_accuracy`: means over the images, of their sets of attributes; `ins_f1` is
    the harmonic mean of the first two. PaddleClas computes label_f1 with the mean recall instead of
    each attribute's. Unknown attributes (-1), and images of which nothing is known, do not count.

    threshold: above it an attribute is predicted: of the sigmoid, or `from_logits` of the logit
        itself, as PaddleClas computes the scores that it publishes.
    """

    threshold: Probability = 0.5
    from_logits: bool = False

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        score, label = _scores_and_labels(outputs, batch, self.from_logits)
        known, positive = label >= 0, label == 1
        predicted = (score > self.threshold) & known
        both = positive & predicted
        of_image = both.sum(axis=1)  # (N,)
        self.add(
            true_positive=both.sum(axis=0),  # (C,) each
            positive=positive.sum(axis=0),
            predicted=predicted.sum(axis=0),
            known=known.sum(axis=0),
            accuracy=_share(of_image, (positive | predicted).sum(axis=1)).sum(),
            precision=_share(of_image, predicted.sum(axis=1)).sum(),
            recall=_share(of_image, positive.sum(axis=1)).sum(),
            images=known.any(axis=1).sum(),
        )

    def compute(self, state: State) -> dict[str, float]:
        true, positive, predicted = (state[k] for k in ("true_positive", "positive", "predicted"))
        if not state["images"]:
            return {}
        negative = state["known"] - positive
        asked = state["known"] > 0  # (C,): the attributes of which something is known
        true_negative = negative - (predicted - true)
        pos_recall, neg_recall = _share(true, positive), _share(true_negative, negative)
        accuracy, precision, recall = (
            float(state[k] / state["images"]) for k in ("accuracy", "precision", "recall")
        )
        scores = {
            "mA": ((pos_recall + neg_recall) / 2)[asked].mean(),
            "label_f1": _share(2 * true, positive + predicted)[asked].mean(),
            "label_pos_recall": pos_recall[asked].mean(),
            "label_neg_recall": neg_recall[asked].mean(),
            "ins_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "ins_accuracy": accuracy,
            "ins_precision": precision,
            "ins_recall": recall,
        }
        return {name: float(value) for name, value in scores.items()}


@register("metric")
@dataclass(eq=False)
class MultiLabelMAP(ScoringMetric):
    """Mean average precision over the attributes that occur.

    `integral`: area under the precision-recall curve, as scikit-learn's average_precision_score;
    `11point`: mean over recall 0, 0.1 ... 1 of the best precision at that recall or above (Pascal
    VOC 2007). Equal scores count as one step, so that the images' order does not matter.
    """

    map_type: Literal["integral", "11point"] = "integral"

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        score, label = _scores_and_labels(outputs, batch)
        self.append(score=score, label=label.astype(np.int8))

    def compute(self, state: State) -> dict[str, float]:
        pairs = zip(state["score"].T, state["label"].T)
        found = [self._average_precision(s, y) for s, y in pairs if (y == 1).any()]
        return {"MultiLabelMAP": float(np.mean(found)) if found else 0.0}

    def _average_precision(self, score: np.ndarray, label: np.ndarray) -> float:
        score, positive = score[label >= 0], label[label >= 0] == 1
        order = np.argsort(-score, kind="stable")
        score, positive = score[order], positive[order]
        ends = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # last of equal scores
        hits = positive.cumsum()[ends]
        precision, recall = hits / (ends + 1), hits / hits[-1]
        if self.map_type == "integral":
            return float((np.diff(recall, prepend=0.0) * precision).sum())
        # Recall h / n reaches j / 10 when 10 h >= j n, compared in integers.
        return float(np.mean([precision[10 * hits >= j * hits[-1]].max() for j in range(11)]))
