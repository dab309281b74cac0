"""The curve of a sweep over learning rates: as a picture, and as a sketch of characters.

Read before: ../recipe/lr.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.report.figures import write_figure

ROWS = 12  # of a sketch


def rate_picture(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marks: Sequence[tuple[str, float]],
    path: Path,
) -> None:
    """Draw the losses over the rates (logarithmic) into a PNG, with named `marks` at rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, ".", color="tab:blue", alpha=0.35, label="loss of a batch")
    axes.plot(rates, smoothed, color="tab:blue", label="smoothed")
    for colour, (name, rate) in zip(("tab:green", "tab:orange"), marks):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name} {rate:.2g}")
    axes.set_xscale("log")
    low, high = _range(smoothed)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(figure, path)


def rate_sketch(
    rates: Sequence[float], smoothed: Sequence[float], mark: float | None, width: int
) -> str:
    """The smoothed losses over the rates in lines of at most `width` ASCII characters.

    mark: a rate at which a line stands.
    """
    low, high = _range(smoothed)
    columns = max(10, width - 11)
    start, end = math.log10(rates[0]), math.log10(rates[-1])
    span = max(end - start, 1e-9)

    def column(rate: float) -> int:
        return round((math.log10(rate) - start) / span * (columns - 1))

    grid = [[" "] * columns for _ in range(ROWS)]
    if mark is not None and rates[0] <= mark <= rates[-1]:
        for row in grid:
            row[column(mark)] = "|"
    for rate, loss in zip(rates, smoothed):
        height = (min(loss, high) - low) / max(high - low, 1e-12)
        grid[round((1 - height) * (ROWS - 1))][column(rate)] = "*"
    heights = [f"{high:9.3g} "] + [" " * 10] * (ROWS - 2) + [f"{low:9.3g} "]
    lines = [f"{left}{''.join(row).rstrip()}" for left, row in zip(heights, grid)]
    axis = f"{rates[0]:.0e}"
    axis += f"{rates[-1]:.0e}".rjust(columns - len(axis))
    return "\n".join([*lines, f"{'rate':>9} {axis}"])


def _range(smoothed: Sequence[float]) -> tuple[float, float]:
    """The losses that are worth showing: what ran away is above."""
    low, first = min(smoothed), smoothed[0]
    high = min(max(smoothed), max(first, low) + 0.5 * abs(first - low) + 1e-9)
    return low, max(high, low + 1e-9)
