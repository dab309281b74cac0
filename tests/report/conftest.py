"""The folder of a run, made up, with as many classes as a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.report.facts import Classes, ImageGroup, cells_of, write_facts, write_images
from ppcls_lite.report.summary import EVALUATION, RUN

MakeRun = Callable[[Path, int], Path]


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Writes the files of a run that has been evaluated into a folder; returns it."""
    return _write


def _write(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(count)
    place = folder / EVALUATION
    place.mkdir(parents=True)
    (folder / "config.yaml").write_text("Arch: {name: PPLCNet_x0_25}\nGlobal: {epochs: 3}\n")
    (folder / "versions.json").write_text(json.dumps({"python": "3.11.7", "command": "train"}))
    records = []
    for epoch in (1, 2, 3):
        records.append(
            {"kind": "train", "epoch": epoch, "step": epoch, "lr": 0.1, "loss": 9 / epoch}
        )
        records.append({"kind": "eval", "epoch": epoch, "step": epoch, "top1": 0.3 * epoch})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    best = {"top1": 0.9, "epoch": 3}
    write_facts(folder / RUN, {"best": best, "images": {"Train": 80, "Eval": 50 * count}})
    names = [f"class {n} <b>" for n in range(count)]
    matrix = np.diag(rng.integers(25, 45, count))
    wrong = rng.integers(0, count, (2, 7 * count))
    np.add.at(matrix, tuple(wrong), 1)
    recall = np.diag(matrix) / matrix.sum(axis=1)
    rows = [[float(r), int(n)] for r, n in zip(recall, matrix.sum(axis=1))]
    Classes("images", names, ["recall", "images"], rows, "recall", cells_of(matrix)).write(place)
    cv2.imwrite(str(folder / "photo.png"), np.full((40, 60, 3), 120, np.uint8))
    images = [(str(folder / "photo.png"), "is <i>cat</i>"), (str(folder / "gone.png"), "gone")]
    write_images(place, [ImageGroup("The most certain mistakes", images)])
    bins = [{"low": 0.6, "high": 1, "count": 9, "confidence": 0.8, "accuracy": 0.7}]
    told = {"error": 0.1, "loss": 0.5, "bins": bins}
    cuts = [{"threshold": 0.5, "precision": 0.9, "coverage": 1.0, "answered": 10}]
    calibration = {"images": 10, "right": 9, "temperature": 1.2, "as_is": told, "fitted": told}
    write_facts(place / "calibration.json", {**calibration, "cuts": cuts})
    scored = {"scores": {"top1": 0.9}, "intervals": {"top1": [0.8, 0.95, "Wilson, 10 images"]}}
    write_facts(place / "scores.json", {"sha256": "0", **scored})
    return folder
