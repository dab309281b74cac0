"""Figure 1 of the paper, accuracy against latency, as published and as measured here (PNG)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ppcls_lite.benchmark.result import Result
from ppcls_lite.config.zoo import ZOO

_STYLES = {  # beginning of a name, the longest first: colour, marker
    "PPLCNetV2": ("tab:purple", "*"),
    "PPLCNet": ("tab:red", "o"),
    "MobileNetV1": ("tab:brown", "v"),
    "MobileNetV2": ("tab:blue", "s"),
    "MobileNetV3_large": ("tab:green", "^"),
    "MobileNetV3_small": ("tab:olive", "D"),
    "ShuffleNetV2": ("tab:orange", "P"),
}
_PANELS = 4


def family(name: str) -> str:
    """The line of the figure that a network belongs to."""
    return next((start for start in _STYLES if name.startswith(start)), name.split("_")[0])


def points(latencies: Mapping[str, float | None]) -> dict[str, list[tuple[float, float, str]]]:
    """Family to (ms, top-1, name), by accuracy; without what has no latency or no accuracy."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for name, ms in latencies.items():
        if ms is not None and ZOO[name].top1 is not None:
            found.setdefault(family(name), []).append((ms, ZOO[name].top1, name))
    return {line: sorted(dots, key=lambda dot: dot[1]) for line, dots in found.items()}


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the figure: the published latencies, then one panel for each contender (at most 4)."""
    contenders = list(dict.fromkeys((r.setting, r.batch_size) for r in results))[:_PANELS]
    names = dict.fromkeys(r.model for r in results)
    published = {name: ZOO[name].latency_ms for name in names}
    panels: dict[str, Mapping[str, float | None]] = {
        "as published (Xeon 6148; V2 and large 1.25x: 6271C)": published
    }
    for setting, batch_size in contenders:
        panels[f"here: {setting}, batch {batch_size}"] = {
            r.model: r.median for r in results if (r.setting, r.batch_size) == (setting, batch_size)
        }
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns + 1.6, 4.2 * rows), layout="constrained")
    every = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    handles: dict[str, Line2D] = {}
    for axes, (title, latencies) in zip(every, panels.items()):
        handles = _panel(axes, title, points(latencies)) | handles
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    for axes in every[::columns]:
        axes.set_ylabel("ImageNet-1k top-1 (%), published")
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def _panel(
    axes: Axes, title: str, lines: Mapping[str, list[tuple[float, float, str]]]
) -> dict[str, Line2D]:
    """Draw one panel; the line of each family."""
    handles = {}
    for line, dots in lines.items():
        colour, marker = _STYLES.get(line, ("tab:gray", "x"))
        times, scores, _ = zip(*dots)
        (handles[line],) = axes.plot(times, scores, color=colour, marker=marker, markersize=5)
        for ms, score, name in dots:
            place = {"textcoords": "offset points", "xytext": (4, -9), "fontsize": 7}
            axes.annotate(_scale(name, line), (ms, score), **place)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("latency (ms)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    return handles


def _scale(name: str, line: str) -> str:
    """What tells a network from the others of its line: "0.25x", "base"."""
    rest = name.removeprefix(line).lstrip("_")
    return f"{rest[1:].replace('_', '.')}x" if rest.startswith("x") else rest or "1x"
