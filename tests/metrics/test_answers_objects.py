"""A detector's answers for each image: counts, intervals, and thresholds that keep a promise."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.metrics.answers_objects import certainty, classes, counts, intervals, write
from ppcls_lite.metrics.certainty import Wish
from ppcls_lite.metrics.detection_report import Settings
from ppcls_lite.metrics.objects import Found, Truth
from ppcls_lite.report.facts import IMAGES, read_facts

BOX = np.float32([0, 0, 10, 10])
SETTINGS = Settings(2, 0.5, ["car", "bus"])


def scene() -> tuple[Found, Truth, np.ndarray]:
    """Twenty images with a car each; the surer an answer, the likelier it is right."""
    scores = np.linspace(0.95, 0.1, 20)
    right = np.arange(20) % 5 != 4  # images 4, 9, 14, 19: an answer where nothing is
    boxes = np.where(right[:, None], BOX, BOX + 50).astype(np.float32)
    images = np.arange(20)
    none = np.zeros(20, bool)
    truth = Truth(images, np.zeros(20, int), np.tile(BOX, (20, 1)), np.full(20, 100.0), none, none)
    return Found(images, np.zeros(20, int), scores, boxes), truth, images


def test_counts_add_up_and_are_written(tmp_path: Path) -> None:
    found, truth, images = scene()
    of = counts(found, truth, 0.5, images)
    shown = found.score >= 0.5
    assert (of.right + of.wrong).sum() == shown.sum() and (of.right + of.missed).tolist() == [
        1
    ] * 20
    write(tmp_path, found, truth, SETTINGS, {"AP": [0.5, float("nan")]}, images, ["first.jpg"])
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "file": "first.jpg",
        "objects": "1",
        "right": "1",
        "wrong": "0",
        "missed": "0",
    }
    assert rows[4]["wrong"] == rows[4]["missed"] == "1" and rows[1]["file"] == "number 1"
    assert read_facts(tmp_path / IMAGES) == []  # no picture was drawn


def test_classes_have_a_background() -> None:
    found, truth, _ = scene()
    known = classes(found, truth, SETTINGS, {})
    assert known.names[known.nothing] == "background" and known.scores[1] == [None, None, None, 0]
    cells = {(row, column): count for row, column, count in known.cells}
    assert cells[0, 0] + cells[0, 2] == 20 and cells[2, 0] == 2


def test_intervals_hold_the_rates() -> None:
    found, truth, images = scene()
    of = counts(found, truth, 0.5, images)
    ranges = intervals(found, truth, 0.5, images)
    precision = of.right.sum() / (of.right + of.wrong).sum()
    assert ranges["precision"].low < precision < ranges["precision"].high
    assert ranges["recall"].low < of.right.mean() < ranges["recall"].high


@pytest.mark.parametrize(("name", "share"), [("precision", 0.8), ("coverage", 0.5)])
def test_a_threshold_keeps_its_promise(name: str, share: float) -> None:
    found, truth, images = scene()
    chosen = certainty(found, truth, 20, Wish(reject=(name, share)))
    assert chosen is not None and {*chosen.arguments} == {"score_threshold"}
    of = counts(found, truth, chosen.arguments["score_threshold"], images)
    precision = of.right.sum() / (of.right + of.wrong).sum()
    assert chosen.facts["precision"] == pytest.approx(precision)
    assert chosen.facts["coverage"] == pytest.approx(of.right.mean())
    assert chosen.facts[name] >= share


def test_what_a_detector_cannot_promise_is_said() -> None:
    found, truth, _ = scene()
    with pytest.raises(UserError, match=r"finds 0\.8000 of the objects at most"):
        certainty(found, truth, 20, Wish(reject=("coverage", 0.9)))
    assert certainty(found, truth, 20, Wish(calibrate=True)) is None
