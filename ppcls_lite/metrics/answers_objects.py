"""The answers of a detector for each image, its classes as plain data, and how sure its rates are.

An answer is one from the threshold on; it and an object belong together by IoU 0.5.
Read before: detection_report.py, answers.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.metrics.answers import PREDICTIONS, path_of
from ppcls_lite.metrics.certainty import Certainty, Wish, unreachable
from ppcls_lite.metrics.detection_report import BACKGROUND, Settings, confusion
from ppcls_lite.metrics.matching import matched, operating, pairs_of
from ppcls_lite.metrics.objects import Found, Truth
from ppcls_lite.ops.intervals import Interval, bootstrap
from ppcls_lite.report.facts import Classes, ImageGroup, cells_of, write_images
from ppcls_lite.system.files import atomic_text

_WORST = "worst_images.png"  # of detection_report.py


class Counts(NamedTuple):
    """Of each image, (N,): right answers, wrong answers, missed objects."""

    right: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray


def counts(found: Found, truth: Truth, threshold: float, images: np.ndarray) -> Counts:
    """The counts of `images`, which are in rising order."""
    match = matched(found, truth, pairs_of(found, truth))
    shown = found.score >= threshold
    missed = ~truth.ignored
    missed[match[(match >= 0) & shown]] = False

    def count(numbers: np.ndarray) -> np.ndarray:
        return np.bincount(np.searchsorted(images, numbers), minlength=len(images))

    hit, wrong = shown & (match >= 0), shown & (match == -1)
    return Counts(*map(count, (found.image[hit], found.image[wrong], truth.image[missed])))


def intervals(
    found: Found, truth: Truth, threshold: float, images: np.ndarray
) -> dict[str, Interval]:
    """Of precision and recall at the threshold, from images drawn again and again."""
    of = counts(found, truth, threshold, np.sort(images))

    def rate(other: np.ndarray, weights: np.ndarray) -> float:
        total = weights @ (of.right + other)
        return float(weights @ of.right / total) if total else float("nan")

    sides = {"precision": of.wrong, "recall": of.missed}
    drawn = {n: bootstrap(lambda w, o=o: rate(o, w), len(images)) for n, o in sides.items()}
    return {name: interval for name, interval in drawn.items() if interval}


def certainty(found: Found, truth: Truth, images: int, wish: Wish) -> Certainty | None:
    """The score from which an answer counts; the coverage of objects is their recall."""
    if wish.reject is None or wish.calibrate:
        return None
    name, share = wish.reject
    match = matched(found, truth, pairs_of(found, truth))
    curve = operating(found.score, match, int((~truth.ignored).sum()))
    reached = curve.precision if name == "precision" else curve.recall
    places = np.flatnonzero(reached >= share)
    if not len(places):
        best = float(reached.max(initial=0))
        if name == "precision":
            raise unreachable(share, best, images)
        raise UserError(f"the network finds {best:.4f} of the objects at most, not {share:g}")
    place = int(places[-1 if name == "precision" else 0])
    below = float(curve.score[place + 1]) if place + 1 < len(curve.score) else 0.0
    threshold = round((float(curve.score[place]) + below) / 2, 6)
    facts = {"precision": float(curve.precision[place]), "coverage": float(curve.recall[place])}
    return Certainty({"score_threshold": threshold}, {"images": images, **facts})


def classes(
    found: Found, truth: Truth, settings: Settings, aps: Mapping[str, Sequence[float]]
) -> Classes:
    """AP, precision and recall of every class, and what was taken for what."""
    match = matched(found, truth, pairs_of(found, truth))
    rows: list[list[float | None]] = []
    for kind in range(settings.class_num):
        own = found.kind == kind
        objects = int((~truth.ignored & (truth.kind == kind)).sum())
        precision, recall, f1 = operating(found.score[own], match[own], objects).at(
            settings.threshold
        )
        known = [float(ap[kind]) for ap in aps.values()]
        scores = [*known, precision, recall, f1]
        rows.append([*(scores if objects else [None] * len(scores)), objects])
    columns = [*aps, "precision", "recall", "f1", "objects"]
    cells = cells_of(confusion(found, truth, settings))
    names, count = [*settings.titles, BACKGROUND], settings.class_num
    return Classes("objects", names, columns, rows, "f1", cells, nothing=count)


def write(
    folder: Path,
    found: Found,
    truth: Truth,
    settings: Settings,
    aps: Mapping[str, Sequence[float]],
    images: np.ndarray,
    paths: Sequence[str],
) -> list[Path]:
    """Write predictions.csv, a row for each image, classes.json and images.json."""
    of = counts(found, truth, settings.threshold, images)
    path = folder / PREDICTIONS
    with atomic_text(path, newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "objects", "right", "wrong", "missed"])
        for image, right, wrong, missed in zip(images.tolist(), *(c.tolist() for c in of)):
            table.writerow([path_of(image, paths), right + missed, right, wrong, missed])
    title = "The images with the most mistakes: what is there, and what was answered"
    groups = [ImageGroup(title, [], _WORST)] if (folder / _WORST).is_file() else []
    data = classes(found, truth, settings, aps).write(folder)
    return [path, data, write_images(folder, groups)]
