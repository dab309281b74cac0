"""Figure 1 of the paper, accuracy against latency, as published and as measured here (PNG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppcls_lite.bench.latency_result import Result
from ppcls_lite.models.zoo import ZOO

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
    """Family to (ms, top-1, name), by latency; without what has no latency or no accuracy."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for name, ms in latencies.items():
        if ms is not None and ZOO[name].top1 is not None:
            found.setdefault(family(name), []).append((ms, ZOO[name].top1, name))
    return {line: sorted(dots) for line, dots in found.items()}


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the figure: the published latencies, then one panel for each contender (at most 4)."""
    contenders = list(dict.fromkeys((r.setting, r.batch_size) for r in results))[:_PANELS]
    names = dict.fromkeys(r.model for r in results)
    panels: dict[str, Mapping[str, float | None]] = {
        "as published": {name: ZOO[name].latency_ms for name in names}
    }
    for setting, batch_size in contenders:
        panels[f"here: {setting}, batch {batch_size}"] = {
            r.model: r.median for r in results if (r.setting, r.batch_size) == (setting, batch_size)
        }
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, latencies) in zip(every, panels.items()):
        _panel(axes, title, points(latencies))
    every[0].set_ylabel("ImageNet-1k top-1 (%), published")
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, title: str, lines: Mapping[str, list[tuple[float, float, str]]]) -> None:
    for line, dots in lines.items():
        colour, marker = _STYLES.get(line, ("tab:gray", "x"))
        times, scores, names = zip(*dots)
        axes.plot(times, scores, color=colour, marker=marker, label=line)
        for ms, score, name in zip(times, scores, names):
            place = {"textcoords": "offset points", "xytext": (4, -9), "fontsize": 7}
            axes.annotate(_scale(name, line), (ms, score), **place)
    axes.set_title(title)
    axes.set_xlabel("latency (ms)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(loc="lower right", fontsize=8)


def _scale(name: str, line: str) -> str:
    """What tells a network from the others of its line: "0.25x", "base"."""
    rest = name.removeprefix(line).lstrip("_")
    return f"{rest[1:].replace('_', '.')}x" if rest.startswith("x") else rest or "1x"
