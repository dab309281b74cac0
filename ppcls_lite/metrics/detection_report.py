"""Tables and pictures of a detector's mistakes: per class, curves, confusions, the worst images.

matplotlib is imported by the first picture. Read before: coco_ap.py, matching.py, confusion.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_lite.metrics.confusion import NAMED_CLASSES, draw
from ppcls_lite.metrics.detection_pictures import Draw, draw_worst
from ppcls_lite.metrics.matching import matched, operating, pairs_of
from ppcls_lite.metrics.objects import Found, Truth
from ppcls_lite.report.figures import write_figure
from ppcls_lite.system.files import write_text

BACKGROUND = "background"
WORST = 50  # images that are named


class Settings(NamedTuple):
    """How many classes there are, from which score an answer is shown, the classes' names."""

    class_num: int
    threshold: float
    names: Sequence[str] | None

    @property
    def titles(self) -> list[str]:
        """A name or number for each class."""
        names = self.names if self.names and len(self.names) == self.class_num else None
        return list(names) if names else [str(number) for number in range(self.class_num)]


def write(
    folder: Path,
    found: Found,
    truth: Truth,
    settings: Settings,
    aps: Mapping[str, Sequence[float]],
    curves: np.ndarray,
    paths: Sequence[str],
    draw_result: Draw,
) -> list[Path]:
    """Write all of it; returns the files.

    aps: name -> (C,) scores of the classes. curves: (101, C) precision at the recalls 0 to 1, -1
    for classes without objects. paths: of the images. draw_result: of the post-processing.
    """
    match = matched(found, truth, pairs_of(found, truth))
    table = folder / "detection_per_class.txt"
    write_text(table, per_class(found, truth, match, settings, aps) + "\n")
    matrix = confusion(found, truth, settings)
    titles = [*settings.titles, BACKGROUND]
    confusions, picture = (folder / f"detection_confusion.{s}" for s in ("csv", "png"))
    lines = [",".join(["true", *map(_cell, titles)])]
    lines += [
        f"{_cell(name)},{','.join(map(str, row))}" for name, row in zip(titles, matrix.tolist())
    ]
    write_text(confusions, "\n".join(lines) + "\n")
    draw(matrix, picture, titles, "objects")
    pr_curves = folder / "detection_curves.png"
    _draw_curves(curves, settings, pr_curves)
    worst = folder / "worst_images.txt"
    mistakes = worst_images(found, truth, match, settings)
    write_text(worst, _mistakes(mistakes, settings, paths) + "\n")
    shown = Found(*(part[found.score >= settings.threshold] for part in found))
    drawn = draw_worst(
        *(folder / "worst_images.png", mistakes, paths, shown, truth, settings.titles, draw_result)
    )
    return [table, confusions, picture, pr_curves, worst, *drawn]


def per_class(
    found: Found,
    truth: Truth,
    match: np.ndarray,
    settings: Settings,
    aps: Mapping[str, Sequence[float]],
) -> str:
    """AP, precision and recall at the threshold, and the threshold of the best F1, as text."""
    titles = [*settings.titles, "all"]
    width = max(map(len, ["class", *titles]))
    head = "".join(f"  {name:>6}" for name in aps)
    lines = [
        f"precision and recall at IoU 0.5 and scores from {settings.threshold:g}",
        f"{'class':<{width}}{head}  objects  precision  recall  best F1  at score",
    ]
    counted = ~truth.ignored
    for number, title in enumerate(titles):
        own = found.kind == number if number < settings.class_num else np.ones(len(match), bool)
        there = truth.kind == number if number < settings.class_num else True
        objects = int((counted & there).sum())
        curve = operating(found.score[own], match[own], objects)
        precision, recall, _ = curve.at(settings.threshold)
        score, f1 = curve.best()
        last = number == settings.class_num
        values = [np.nanmean(v) if last else v[number] for v in map(np.asarray, aps.values())]
        cells = "".join(f"  {value:6.4f}" for value in values)
        lines.append(
            f"{title:<{width}}{cells}  {objects:7d}  {precision:9.4f}  {recall:6.4f}  {f1:7.4f}  "
            f"{score:8.3f}"
        )
    return "\n".join(lines)


def confusion(found: Found, truth: Truth, settings: Settings) -> np.ndarray:
    """Counts (C + 1, C + 1) int64: rows what is there, columns what was answered.

    The last row is the background: answers where no object is; the last column: objects that nobody
    found. An answer and an object belong together by their places (IoU 0.5), whatever their classes
    are; the surest answers choose first.
    """
    shown = Found(*(part[found.score >= settings.threshold] for part in found))
    match = matched(shown, truth, pairs_of(shown, truth, same_class=False))
    count = settings.class_num
    matrix = np.zeros((count + 1, count + 1), np.int64)
    hit = match >= 0
    np.add.at(matrix, (truth.kind[match[hit]], shown.kind[hit]), 1)
    np.add.at(matrix, (count, shown.kind[match == -1]), 1)
    missed = ~truth.ignored
    missed[match[hit]] = False
    np.add.at(matrix, (truth.kind[missed], count), 1)
    return matrix


def worst_images(
    found: Found, truth: Truth, match: np.ndarray, settings: Settings
) -> list[tuple[int, int, int]]:
    """The images with the most mistakes: their numbers, missed objects and wrong answers."""
    shown = found.score >= settings.threshold
    missed = ~truth.ignored
    missed[match[(match >= 0) & shown]] = False
    size = 1 + int(max(found.image.max(initial=0), truth.image.max(initial=0)))
    misses = np.bincount(truth.image[missed], minlength=size)
    wrong = np.bincount(found.image[shown & (match == -1)], minlength=size)
    order = np.argsort(-(misses + wrong), kind="stable")[:WORST]
    order = order[(misses + wrong)[order] > 0]
    return list(zip(order.tolist(), misses[order].tolist(), wrong[order].tolist()))


def _mistakes(
    images: Sequence[tuple[int, int, int]], settings: Settings, paths: Sequence[str]
) -> str:
    lines = [f"missed  wrong  image (IoU 0.5, scores from {settings.threshold:g})"]
    for image, missed, wrong in images:
        name = paths[image] if image < len(paths) else f"number {image}"
        lines.append(f"{missed:6d}  {wrong:5d}  {name}")
    return "\n".join(lines)


def _cell(name: str) -> str:
    """A name as a cell of a CSV file."""
    return '"{}"'.format(name.replace('"', '""')) if set(name) & set(',"\n') else name


def _draw_curves(curves: np.ndarray, settings: Settings, path: Path) -> None:
    """Precision over recall at IoU 0.5, a line a class and their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    recall = np.linspace(0, 1, len(curves))
    known = [k for k in range(curves.shape[1]) if curves[0, k] > -1]
    few = len(known) <= NAMED_CLASSES
    for number in known:
        label = settings.titles[number] if few else None
        axes.plot(recall, curves[:, number], linewidth=1, alpha=0.7, label=label)
    if known:
        mean = curves[:, known].mean(axis=1)
        axes.plot(recall, mean, color="black", linewidth=2, label="mean of the classes")
        axes.legend(fontsize=8)
    axes.set(xlabel="recall", ylabel="precision", title="IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    write_figure(figure, path)
