"""The confusion matrix, the scores of each class that follow from it, and its picture.

matplotlib is imported by the first picture, so that no start of a run waits for it.
Read before: topk.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.losses.targets import is_soft, logits_of
from ppcls_lite.metrics.base import CountingMetric, Outputs, State, answered
from ppcls_lite.report.facts import Classes, cells_of, names_of
from ppcls_lite.report.figures import write_figure
from ppcls_lite.report.words import confused, worst_first
from ppcls_lite.system.files import write_text
from ppcls_lite.system.fonts import font_file

DOT_CLASSES = 300  # from so many on a cell is drawn larger than it is
NAMED_CLASSES = 30  # more would not be legible on the picture's axes


@register("metric")
class ConfusionMatrix(CountingMetric):
    """Macro precision, recall and F1, and the table of all classes behind them.

    The macro values are means over the classes that occur as a label or as a prediction, as in
    scikit-learn. Images without label (-1) do not count; one whose logits are not finite counts as
    missed, in no column. Its report is per_class.txt, the scores of each class,
    confusion_matrix.png, and both as plain data in classes.json.
    """

    reports = True

    def collect(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> None:
        logits, label = logits_of(outputs), batch["label"]
        if is_soft(label, logits.shape[1]):
            label = label.argmax(axis=1)
        truth = label.numpy().reshape(-1).astype(np.int64)  # (N,)
        predicted = logits.argmax(axis=1).numpy()  # (N,)
        found = answered(logits).numpy()
        missed = np.bincount(truth[(truth >= 0) & ~found], minlength=logits.shape[1])  # (C,)
        found &= truth >= 0  # the labelled images
        truth, predicted = truth[found], predicted[found]
        matrix = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
        np.add.at(matrix, (truth, predicted), 1)
        self.add(matrix=matrix, **{"missed": missed} if missed.any() else {})

    def compute(self, state: State) -> dict[str, float]:
        matrix, missed = state["matrix"], state.get("missed", 0)
        occurs = matrix.sum(axis=0) + matrix.sum(axis=1) + missed > 0
        if not occurs.any():
            return {}
        precision, recall, f1 = _scores(matrix, missed)
        return {
            "macro_precision": float(precision[occurs].mean()),
            "macro_recall": float(recall[occurs].mean()),
            "macro_f1": float(f1[occurs].mean()),
        }

    @property
    def matrix(self) -> np.ndarray:
        """Counts (class_num, class_num) int64: rows are labels, columns predictions."""
        return self.state()["matrix"]

    def report(self, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
        table, picture = folder / "per_class.txt", folder / "confusion_matrix.png"
        write_text(table, self.table(names) + "\n")
        draw(self.matrix, picture, names)
        return [table, picture, self.classes(names).write(folder)]

    def classes(self, names: Sequence[str] | None = None) -> Classes:
        """The scores of every class and the matrix, as plain data."""
        matrix, missed = self.matrix, self.state().get("missed", 0)
        images = matrix.sum(axis=1) + missed
        scores: list[list[float | None]] = [
            [p, r, f, n] if n or p else [None, None, None, n]
            for p, r, f, n in zip(*(s.tolist() for s in _scores(matrix, missed)), images.tolist())
        ]
        columns = ["precision", "recall", "f1", "images"]
        titles = names_of(len(matrix), names)
        return Classes("images", titles, columns, scores, "recall", cells_of(matrix))

    def summary(self, names: Sequence[str] | None = None) -> list[str]:
        classes = self.classes(names)
        return [*worst_first(classes), *confused(classes)]

    def table(self, names: Sequence[str] | None = None) -> str:
        """The scores of every class as text, one a line, with the classes' names where given."""
        matrix, missed = self.matrix, self.state().get("missed", 0)
        titles = [names[i] if names else str(i) for i in range(len(matrix))]
        width = max(len("class"), *map(len, titles))
        lines = [f"{'class':<{width}}  precision  recall      f1  images"]
        rows = zip(titles, *_scores(matrix, missed), matrix.sum(axis=1) + missed)
        for title, precision, recall, f1, images in rows:
            text = f"{precision:9.4f}  {recall:6.4f}  {f1:6.4f}"
            lines.append(f"{title:<{width}}  {text}  {images:6d}")
        return "\n".join(lines)


def _scores(
    matrix: np.ndarray, missed: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, (C,) each; `missed` (C,): images without answer."""
    right, labelled, predicted = np.diag(matrix), matrix.sum(axis=1) + missed, matrix.sum(axis=0)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)

    return share(right, predicted), share(right, labelled), share(2 * right, labelled + predicted)


def draw(
    matrix: np.ndarray,
    path: Path,
    labels: Sequence[str] | None = None,
    unit: Literal["images", "objects", "pixels"] = "images",
) -> None:
    """`matrix` (C, C) of counts, rows true and columns predicted, coloured by the row's share.

    Images and objects are written as counts, pixels as percentages of the row.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # (C, C)
    side = min(12.0, 4.0 + 0.3 * count)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    dot = 1 + count // DOT_CLASSES  # a cell of a thousand classes is less than a pixel
    seen = cv2.dilate(shares, np.ones((dot, dot))) if dot > 1 else shares
    gamma = 1 if count <= NAMED_CLASSES else 0.4  # without numbers, rare mistakes have to be seen
    picture = axes.imshow(seen, cmap="Blues", norm=PowerNorm(gamma, 0, 1))
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED_CLASSES:
        names = _legible(labels or [], count)
        axes.set_xticks(range(count), names, rotation=90 if labels is not None else 0)
        axes.set_yticks(range(count), names)
        for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            tick.set_family(_family(names))
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
            share = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, share if unit == "pixels" else str(matrix[row, column]), **text)
    right = np.trace(matrix) / max(matrix.sum(), 1)
    title = f"{int(matrix.sum()):,} {unit}, {right:.2%} right"
    if unit == "objects":  # the last row has what is none
        title = f"{int(matrix[:-1].sum()):,} objects, {int(matrix[-1].sum()):,} false alarms"
    axes.set_title(title)
    write_figure(figure, path)


def _legible(labels: Sequence[str], count: int) -> list[str]:
    """The labels; a number for a class without one, or with characters that no font has."""
    names = [str(i) for i in range(count)]
    for i, label in enumerate(labels[:count]):
        if font_file(label):
            names[i] = label
    return names


def _family(names: Sequence[str]) -> list[str]:
    """The fonts that have all characters of the names, for matplotlib."""
    from matplotlib.font_manager import FontProperties, fontManager

    families = []
    for file in dict.fromkeys(font_file(name) for name in names):
        if file:
            fontManager.addfont(file)
            families.append(FontProperties(fname=file).get_name())
    return families
