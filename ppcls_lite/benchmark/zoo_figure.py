"""Accuracy against latency as a picture (SVG): a dot for each network, a line for the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ppcls_lite.benchmark.zoo_choice import fastest, front
from ppcls_lite.benchmark.zoo_file import Line, ZooFile
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.system.files import write_text

WIDTH, HEIGHT = 460, 380  # of a panel
LEFT, TOP, RIGHT, BOTTOM = 46, 34, 14, 42  # around a panel's axes
LEGEND = 150
COLOURS = {
    "PPLCNet": "#d62728",
    "PPLCNetV2": "#9467bd",
    "MobileNetV1": "#8c564b",
    "MobileNetV2": "#1f77b4",
    "MobileNetV3": "#2ca02c",
    "MobileNetV4": "#17becf",
    "ShuffleNetV2": "#ff7f0e",
    "PPHGNetV2": "#e377c2",
    "StarNet": "#bcbd22",
    "FasterNet": "#393b79",
    "LeViT": "#7f7f7f",
}


def draw(file: ZooFile, path: Path) -> None:
    """A panel for each precision, with its smallest number of threads."""
    columns = fastest(file.lines)
    panels = {}
    for (precision, threads), times in columns.items():
        panels.setdefault(precision, (threads, times))
    every = [line.ms for _, times in panels.values() for line in times.values()]
    scores = [ZOO[line.model].accuracy for line in file.lines]
    span = (
        _floor(min(every)),
        _ceil(max(every)),
        math.floor(min(scores)) - 1,
        math.ceil(max(scores)) + 1,
    )
    parts = []
    for place, (precision, (threads, times)) in enumerate(panels.items()):
        title = f"{precision}, {threads} thread{'s' * (threads > 1)}"
        parts += [f'<g transform="translate({place * WIDTH},0)">', *_panel(title, times, span)]
        parts.append("</g>")
    families = [f for f in COLOURS if any(ZOO[line.model].family == f for line in file.lines)]
    for i, family in enumerate(families):
        x, y = len(panels) * WIDTH + 16, TOP + 18 * i + 8
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{COLOURS[family]}"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 4}" font-size="12">{family}</text>')
    width = len(panels) * WIDTH + LEGEND
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
        f'height="{HEIGHT}" font-family="sans-serif">'
    )
    back = f'<rect width="{width}" height="{HEIGHT}" fill="white"/>'
    write_text(path, "\n".join([head, back, *parts, "</svg>"]) + "\n")


def _panel(
    title: str, times: Mapping[str, Line], span: tuple[float, float, int, int]
) -> Sequence[str]:
    """Axes, the front as a line, dots with their names on the front; all as titles."""
    low, high, worst, best = span
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(ms: float, score: float) -> tuple[float, float]:
        x = LEFT + wide * math.log(ms / low) / math.log(high / low)
        return round(x, 1), round(TOP + tall * (best - score) / (best - worst), 1)

    parts = [f'<text x="{LEFT}" y="{TOP - 12}" font-size="14">{escape(title)}</text>']
    for ms in _ticks(low, high):
        x, _ = at(ms, best)
        parts.append(f'<path d="M{x} {TOP}V{TOP + tall}" stroke="#ddd"/>')
        place = f'x="{x}" y="{TOP + tall + 16}" font-size="11" text-anchor="middle"'
        parts.append(f"<text {place}>{ms:g}</text>")
    for score in range(-(-worst // 5) * 5, best + 1, 5):
        _, y = at(low, score)
        parts.append(f'<path d="M{LEFT} {y}H{LEFT + wide}" stroke="#ddd"/>')
        place = f'x="{LEFT - 6}" y="{y + 4}" font-size="11" text-anchor="end"'
        parts.append(f"<text {place}>{score}</text>")
    box = f'x="{LEFT}" y="{TOP}" width="{wide}" height="{tall}"'
    parts.append(f'<rect {box} fill="none" stroke="#888"/>')
    place = f'x="{LEFT + wide / 2}" y="{HEIGHT - 8}" font-size="12" text-anchor="middle"'
    parts.append(f"<text {place}>ms an image; top-1 (%), published</text>")
    chosen = front(times)
    points = " ".join("{},{}".format(*at(times[n].ms, ZOO[n].accuracy)) for n in chosen)
    parts.append(f'<polyline points="{points}" fill="none" stroke="#444" stroke-dasharray="4 3"/>')
    for name, line in times.items():
        x, y = at(line.ms, ZOO[name].accuracy)
        colour = COLOURS.get(ZOO[name].family, "#000")
        size = 5 if name in chosen else 3.5
        tip = f"{name}: {ZOO[name].accuracy:.2f} %, {line.ms:.2f} ms, {line.engine}"
        dot = f'<circle cx="{x}" cy="{y}" r="{size}" fill="{colour}">'
        parts.append(f"{dot}<title>{escape(tip)}</title></circle>")
    for i, name in enumerate(chosen):
        x, y = at(times[name].ms, ZOO[name].accuracy)
        right = x > LEFT + 0.6 * wide
        anchor, shift = ("end", -8) if right or i % 2 else ("start", 8)
        if x < LEFT + 0.25 * wide:
            anchor, shift = "start", 8
        drop = 12 if anchor == "start" else -5
        place = f'x="{x + shift}" y="{y + drop}" font-size="9" text-anchor="{anchor}"'
        parts.append(f"<text {place}>{escape(name)}</text>")
    return parts


def _ticks(low: float, high: float) -> list[float]:
    steps = [m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)]
    return [step for step in steps if low * 0.999 <= step <= high * 1.001]


def _floor(ms: float) -> float:
    return max(step for step in _ticks(1e-3, 1e4) if step <= ms)


def _ceil(ms: float) -> float:
    return min(step for step in _ticks(1e-3, 1e4) if step >= ms)
