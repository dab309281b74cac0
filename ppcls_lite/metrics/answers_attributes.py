"""The answers for images with several attributes at once.

Read before: answers.py, multilabel.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Probability, Repeats
from ppcls_lite.losses.targets import attributes_of, logits_of
from ppcls_lite.metrics import calibration
from ppcls_lite.metrics.answers import PREDICTIONS, index_of, path_of
from ppcls_lite.metrics.base import Outputs, ScoringMetric, State
from ppcls_lite.metrics.certainty import Certainty, Wish, unreachable
from ppcls_lite.ops.intervals import wilson
from ppcls_lite.report.facts import Classes, ImageGroup, names_of, write_images
from ppcls_lite.report.words import worst_first
from ppcls_lite.system.files import atomic_text

_NEVER = 1.0  # a threshold that no answer reaches


@register("metric")
class AttributeAnswers(ScoringMetric):
    """Each image's attributes, what is wrong with them, and the scores of each attribute.

    Its report is predictions.csv; classes.json, precision, recall and F1 of each attribute; and
    images.json, the `shown` images with the highest loss (the mean over the known attributes). An
    attribute is answered where its sigmoid is above `threshold`. It adds no score.
    """

    reports = True

    def __init__(self, threshold: Probability = 0.5, shown: Repeats = 24) -> None:
        super().__init__()
        self.threshold, self.shown = threshold, shown

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        logits, label = logits_of(outputs), attributes_of(batch["label"]).numpy()
        index = index_of(self._seen, batch, len(label))
        self.append(index=index, logits=logits, label=label.astype(np.int8))

    def compute(self, state: State) -> dict[str, float]:
        return {}

    def _parts(self) -> tuple[np.ndarray, ...]:
        """index (N,), probabilities, labels and losses (N, C), in the images' order."""
        state = self.state()
        order = np.argsort(state["index"], kind="stable")
        index, logits, label = (state[name][order] for name in ("index", "logits", "label"))
        z = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e3, neginf=-1e3)
        loss = np.logaddexp(0, z) - z * (label == 1)
        return index, 0.5 * (1 + np.tanh(z / 2)), label, np.where(label >= 0, loss, 0.0)

    def _classes(self, names: Sequence[str] | None) -> Classes:
        _, score, label, _ = self._parts()
        titles = names_of(score.shape[1], names)
        answered, known = score > self.threshold, label >= 0
        right = (answered & (label == 1)).sum(axis=0)
        said, there = (answered & known).sum(axis=0), (label == 1).sum(axis=0)
        rows = []
        for r, s, t in zip(right.tolist(), said.tolist(), there.tolist()):
            f1 = 2 * r / (s + t) if s + t else None
            rows.append([r / s if s else None, r / t if t else None, f1, t])
        return Classes("images", titles, ["precision", "recall", "f1", "images"], rows, "f1", [])

    def certainty(self, wish: Wish) -> Certainty | None:
        """A threshold for each attribute, on how probable its answer is (there, or not there)."""
        if wish.reject is None or wish.calibrate:
            return None
        name, share = wish.reject
        _, score, label, _ = self._parts()
        there = score >= self.threshold
        confidence, right = np.where(there, score, 1 - score), there == (label == 1)
        thresholds, answered, hits, best = [], 0, 0, 0.0
        for c in range(score.shape[1]):
            known = label[:, c] >= 0
            cuts = calibration.cuts(confidence[known, c], right[known, c])
            cut = calibration.chosen_cut(cuts, name, share)
            thresholds.append(_NEVER if cut is None else round(cut.threshold, 6))
            best = max([best, *(found.precision for found in cuts)])
            if cut is not None:
                answered, hits = answered + cut.answered, hits + round(cut.precision * cut.answered)
        if not answered:
            raise unreachable(share, best, len(label))
        known = int((label >= 0).sum())
        facts = {"images": len(label), "precision": hits / answered, "coverage": answered / known}
        low, high, _ = wilson(hits, answered)
        facts["precision_interval"] = [low, high]
        return Certainty({"threshold": self.threshold, "reject_below": thresholds}, facts)

    def summary(self, names: Sequence[str] | None = None) -> list[str]:
        return worst_first(self._classes(names))

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        classes = self._classes(names)
        index, score, label, losses = self._parts()
        answered = score > self.threshold
        wrong = (answered != (label == 1)) & (label >= 0)  # (N, C)
        loss = losses.sum(axis=1) / np.maximum((label >= 0).sum(axis=1), 1)  # (N,)

        def said(chosen: np.ndarray) -> str:
            return "; ".join(classes.names[c] for c in np.flatnonzero(chosen))

        path = folder / PREDICTIONS
        with atomic_text(path, newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "truth", "answer", "right", "loss", "scores"])
            for n, number in enumerate(index.tolist()):
                row = [path_of(number, self.paths), said(label[n] == 1), said(answered[n])]
                row += [int(not wrong[n].any()), f"{loss[n]:.5f}"]
                table.writerow([*row, "; ".join(f"{s:.4f}" for s in score[n])])
        hard = [n for n in np.argsort(-loss, kind="stable")[: self.shown] if wrong[n].any()]
        images = [
            (path_of(int(index[n]), self.paths), f"wrong: {said(wrong[n])}; loss {loss[n]:.2f}")
            for n in hard
        ]
        groups = [ImageGroup("Wrong attributes, the highest losses first", images)]
        return [path, classes.write(folder), write_images(folder, groups if images else [])]
