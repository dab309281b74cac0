"""The answer for each image: which are wrong, how sure they were, and whether that can be trusted.

Only evaluations on request collect it, since it keeps every image's logits (4 bytes an image and
class). Read before: calibration.py, ../report/facts.py. Read next: answers_attributes.py.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Repeats
from ppcls_lite.errors import UserError
from ppcls_lite.losses.targets import is_soft, logits_of
from ppcls_lite.metrics import calibration
from ppcls_lite.metrics.base import Outputs, ScoringMetric, State
from ppcls_lite.metrics.calibration import Bin, Cut
from ppcls_lite.metrics.certainty import Certainty, Wish, unreachable
from ppcls_lite.ops.intervals import wilson
from ppcls_lite.report.facts import CALIBRATION, ImageGroup, names_of, write_facts, write_images
from ppcls_lite.report.figures import write_figure
from ppcls_lite.system.files import atomic_text

PREDICTIONS = "predictions.csv"
_SCORES = 5  # classes whose scores a row of the table holds
_NO_NUMBER = "(no number)"


@register("metric")
class ClassAnswers(ScoringMetric):
    """Each image's class, score and loss: a table, the mistakes, and the calibration of the scores.

    Its report is predictions.csv; images.json, the `shown` most certain mistakes and highest
    losses; calibration.json and reliability.png. It adds no score. Images without label (-1) are
    in the table alone. An image whose logits are not finite is wrong and unsure.
    """

    reports = True

    def __init__(self, shown: Repeats = 24) -> None:
        super().__init__()
        self.shown = shown

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        logits, label = logits_of(outputs), batch["label"]
        if is_soft(label, logits.shape[1]):
            label = label.argmax(axis=1)
        label = label.numpy().reshape(-1).astype(np.int64)  # (N,)
        self.append(index=index_of(self._seen, batch, len(label)), logits=logits, label=label)

    def compute(self, state: State) -> dict[str, float]:
        return {}

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        answers = Answers.of(self.state())
        titles = names_of(answers.logits.shape[1], names)
        files = [answers.write(folder / PREDICTIONS, titles, self.paths)]
        files.append(write_images(folder, answers.groups(titles, self.paths, self.shown)))
        if answers.scored.any():
            facts = answers.calibration()
            files += [write_facts(folder / CALIBRATION, facts), _draw(facts, folder)]
        return files

    def summary(self, names: Sequence[str] | None = None) -> list[str]:
        answers = Answers.of(self.state())
        return [in_words(answers.calibration())] if answers.scored.any() else []

    def certainty(self, wish: Wish) -> Certainty | None:
        answers = Answers.of(self.state())
        if not answers.scored.any():
            return None
        fitted = answers.temperature
        facts: dict[str, Any] = {"images": int(answers.scored.sum()), "temperature": fitted}
        arguments = {}
        if wish.calibrate:
            if fitted is None:
                raise UserError(
                    "no temperature can be fitted: none of the answers for DataLoader.Eval is "
                    "wrong. Evaluate on more images, or export without --calibrate"
                )
            arguments["temperature"] = round(fitted, 4)
        if wish.reject is not None:
            found = answers.cut(*wish.reject, arguments.get("temperature", 1.0))
            arguments["reject_below"] = round(found.threshold, 6)
            facts |= {"precision": found.precision, "coverage": found.coverage}
            low, high, _ = wilson(round(found.precision * found.answered), found.answered)
            facts["precision_interval"] = [low, high]
        return Certainty(arguments, facts)


class Answers:
    """The answers of some images in the order of their numbers.

    index (N,), logits (N, C) float32, label (N,) with -1 for unknown; answer (N,), -1 without one;
    confidence (N,) of the answer, loss (N,), NaN without a label.
    """

    def __init__(self, index: np.ndarray, logits: np.ndarray, label: np.ndarray) -> None:
        self.index, self.label = index, label
        self.finite = np.isfinite(logits).all(axis=1)
        self.logits = np.where(self.finite[:, None], logits, 0)
        best, confidence = calibration.best_of(self.logits)
        self.answer = np.where(self.finite, best, -1)
        self.confidence = np.where(self.finite, confidence, 0.0)
        loss = calibration.losses(self.logits, np.maximum(label, 0))
        self.loss = np.where(self.finite, loss, np.inf)
        self.loss[label < 0] = np.nan

    @classmethod
    def of(cls, state: State) -> Answers:
        """Of what the metric keeps."""
        order = np.argsort(state["index"], kind="stable")
        return cls(*(state[name][order] for name in ("index", "logits", "label")))

    @property
    def scored(self) -> np.ndarray:
        """(N,) bool: which images have a label."""
        return self.label >= 0

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: which answers are right."""
        return self.scored & (self.answer == self.label)

    @functools.cached_property
    def temperature(self) -> float | None:
        """See `calibration.fit_temperature`."""
        known = self.scored & self.finite
        return calibration.fit_temperature(self.logits[known], self.label[known])

    def confidence_and_right(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Of the labelled images, (n,) each."""
        confidence = self.confidence
        if temperature != 1:
            confidence = calibration.best_of(self.logits, temperature)[1] * self.finite
        return confidence[self.scored], self.right[self.scored]

    def cut(self, name: str, share: float, temperature: float = 1.0) -> Cut:
        """Where to stop answering, for a `share` of the `precision` or the `coverage`.

        Raises UserError where no threshold is precise enough.
        """
        found = calibration.cuts(*self.confidence_and_right(temperature))
        chosen = calibration.chosen_cut(found, name, share)
        if chosen is None:
            raise unreachable(share, max(cut.precision for cut in found), int(self.scored.sum()))
        return chosen

    def calibration(self) -> dict[str, Any]:
        """How far confidence is from accuracy, before and after the temperature."""
        known = self.scored & self.finite

        def told(temperature: float) -> dict[str, Any]:
            bins = calibration.reliability(*self.confidence_and_right(temperature))
            loss = calibration.losses(self.logits[known], self.label[known], temperature)
            return {
                "error": calibration.calibration_error(bins),
                "loss": float(loss.mean()) if len(loss) else None,
                "bins": [b._asdict() for b in bins],
            }

        found = calibration.cuts(*self.confidence_and_right())
        every = max(1, len(found) // 50)
        return {
            "images": int(self.scored.sum()),
            "right": int(self.right.sum()),
            "temperature": self.temperature,
            "as_is": told(1.0),
            "fitted": told(self.temperature) if self.temperature else None,
            "cuts": [cut._asdict() for cut in [*found[:-1:every], *found[-1:]]],
        }

    def groups(self, names: Sequence[str], paths: Sequence[str], limit: int) -> list[ImageGroup]:
        """The most certain mistakes, and the highest losses."""
        wrong = np.flatnonzero(self.scored & ~self.right)
        certain = wrong[np.argsort(-self.confidence[wrong], kind="stable")][:limit]
        scored = np.flatnonzero(self.scored)
        hard = scored[np.argsort(-self.loss[scored], kind="stable")][:limit]

        def caption(n: int) -> str:
            truth, answer = names[self.label[n]], self._name(n, names)
            if self.right[n]:
                return f"{truth} {self.confidence[n]:.2f}, loss {self.loss[n]:.2f}"
            return f"{answer} {self.confidence[n]:.2f}, is {truth}, loss {self.loss[n]:.2f}"

        def images(chosen: np.ndarray) -> list[tuple[str, str]]:
            return [(path_of(int(self.index[n]), paths), caption(n)) for n in chosen]

        found = {"The most certain mistakes": certain, "The highest losses": hard}
        return [ImageGroup(title, images(chosen)) for title, chosen in found.items() if len(chosen)]

    def _name(self, n: int, names: Sequence[str]) -> str:
        return names[self.answer[n]] if self.answer[n] >= 0 else _NO_NUMBER

    def write(self, path: Path, names: Sequence[str], paths: Sequence[str]) -> Path:
        """Write the table; returns its file."""
        top = np.argsort(-self.logits, axis=1, kind="stable")[:, :_SCORES]  # (N, 5)
        with atomic_text(path, newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "truth", "answer", "right", "score", "loss", "scores"])
            for n in range(len(self.index)):
                p = np.exp(calibration.log_softmax(self.logits[n : n + 1])[0, top[n]])
                scores = "; ".join(f"{names[c]} {s:.4f}" for c, s in zip(top[n], p))
                known = self.scored[n]
                row = [path_of(int(self.index[n]), paths), names[self.label[n]] if known else ""]
                row += [self._name(n, names), int(self.right[n]) if known else ""]
                row += [f"{self.confidence[n]:.5f}", f"{self.loss[n]:.5f}" if known else ""]
                table.writerow([*row, scores if self.finite[n] else ""])
        return path


def index_of(seen: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> np.ndarray:
    """The numbers of a batch's images (count,): what the loader says, or as they come."""
    if "index" in batch:
        return batch["index"].numpy().reshape(-1).astype(np.int64)
    return sum(map(len, seen.get("index", ()))) + np.arange(count)


def path_of(index: int, paths: Sequence[str]) -> str:
    """The file of an image, or its number."""
    return paths[index] if index < len(paths) else f"number {index}"


def in_words(facts: Mapping[str, Any]) -> str:
    """The calibration in a sentence."""
    text = f"calibration: confidence misses accuracy by {facts['as_is']['error']:.3f} on average"
    temperature, fitted = facts["temperature"], facts["fitted"]
    if fitted is None:
        return f"{text}; no answer is wrong, so no temperature can be fitted"
    return f"{text}, by {fitted['error']:.3f} with temperature {temperature:.2f}"


def _draw(facts: Mapping[str, Any], folder: Path) -> Path:
    """Draw confidence against accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as it should be")
    for label, found in (("as it is", facts["as_is"]), ("with temperature", facts["fitted"])):
        points: list[Bin] = [Bin(**b) for b in (found or {}).get("bins", [])]
        if points:
            x, y = [b.confidence for b in points], [b.accuracy for b in points]
            axes.plot(x, y, linewidth=1, label=label)
            sizes = [200 * b.count / facts["images"] + 6 for b in points]
            axes.scatter(x, y, sizes, alpha=0.6)
    title = f"{facts['images']:,} images, {facts['right'] / max(facts['images'], 1):.2%} right"
    axes.set(xlabel="confidence", ylabel="share of right answers", title=title)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "reliability.png"
    write_figure(figure, path)
    return path
