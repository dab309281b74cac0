"""How experiments/guide.py draws what it found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Found = dict[str, dict[str, Any]]
_SIZE, _DPI = (7, 3.4), 110
_COLOURS = ("#1f6feb", "#d1570c", "#2b8a3e", "#8250df", "#b00020", "#57606a")


def rate(found: Found, file: Path) -> None:
    """Accuracy after each epoch, a line a rate."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for colour, (name, record) in zip(_COLOURS, found.items()):
        epochs, _, top1 = zip(*record["eval"])
        axes.plot(epochs, [100 * value for value in top1], color=colour, label=f"rate {name}")
    axes.set(xlabel="epoch", ylabel="right answers (%)", ylim=(0, 101))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, file)


def overfitting(found: Found, file: Path) -> None:
    """Loss on the images that are trained with, and on others."""
    figure, several = plt.subplots(1, 2, figsize=_SIZE, layout="constrained", sharey=True)
    for axes, (name, record) in zip(several, found.items()):
        for kind, label, colour in (
            ("train", "images it trains with", _COLOURS[0]),
            ("eval", "other images", _COLOURS[1]),
        ):
            epochs, loss, _ = zip(*record[kind])
            axes.plot(epochs, loss, color=colour, label=label)
        axes.set(title=name, xlabel="epoch", ylim=(0, 3))
    several[0].set_ylabel("loss")
    several[0].legend(frameon=False)
    _save(figure, file)


def imbalance(found: Found, file: Path) -> None:
    """How many of the frequent and of the rare digits are found."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    kinds = {"digits 0 to 4, all images": slice(0, 5), "digits 5 to 9, a tenth": slice(5, 10)}
    for place, (colour, (label, part)) in enumerate(zip(_COLOURS, kinds.items())):
        shares = [100 * sum(record["recall"][part]) / 5 for record in found.values()]
        at = [number + 0.38 * place for number in range(len(found))]
        bars = axes.bar(at, shares, 0.36, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f")
    axes.set_xticks([number + 0.19 for number in range(len(found))], list(found))
    axes.set(ylabel="found (%)", ylim=(0, 108))
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    _save(figure, file)


def bars(unit: str) -> Callable[[Found, Path], None]:
    """Accuracy at the end, a bar a case."""

    def draw(found: Found, file: Path) -> None:
        figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
        shares = [100 * record["top1"] for record in found.values()]
        drawn = axes.barh(list(found), shares, color=_COLOURS[0])
        axes.bar_label(drawn, fmt="%.1f", padding=4)
        axes.set(xlabel="right answers (%)", xlim=(0, 110), ylabel=unit)
        axes.invert_yaxis()
        _save(figure, file)

    return draw


def _save(figure: Any, file: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=_DPI, metadata={"Software": None})
    plt.close(figure)


PICTURES: dict[str, Callable[[Found, Path], None]] = {
    "rate": rate,
    "epochs": bars(""),
    "overfitting": overfitting,
    "imbalance": imbalance,
    "labels": bars(""),
    "size": bars(""),
}
