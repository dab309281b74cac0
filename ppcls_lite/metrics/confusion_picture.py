"""The picture of a confusion matrix, drawn with matplotlib, without a display.

matplotlib is imported by the first picture, so that no start of a run waits for it.
Read before: confusion.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

NAMED_CLASSES = 30  # more would not be legible on the axes


def draw(matrix: np.ndarray, path: Path, labels: Sequence[str] | None = None) -> None:
    """`matrix` (C, C) of counts, rows true and columns predicted, coloured by the row's share."""
    from matplotlib.figure import Figure

    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # (C, C)
    side = min(12.0, 4.0 + 0.3 * count)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED_CLASSES:
        names = _legible(labels or [], count)
        axes.set_xticks(range(count), names, rotation=90 if labels is not None else 0)
        axes.set_yticks(range(count), names)
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
            axes.text(column, row, str(matrix[row, column]), **text)
    right = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set_title(f"{int(matrix.sum())} images, {right:.2%} right")
    figure.savefig(path, dpi=100)


def _legible(labels: Sequence[str], count: int) -> list[str]:
    """The labels; a number for a class without one, or with characters that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    names = [str(i) for i in range(count)]
    for i, label in enumerate(labels[:count]):
        if all(font.get_char_index(ord(character)) for character in label):
            names[i] = label
    return names
