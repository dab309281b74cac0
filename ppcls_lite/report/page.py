"""report.html of a run: one file with everything in it, made of what the run's folder holds.

Nothing is computed here that a file does not say, and nothing is fetched when it is opened. What an
evaluation on request has left in `eval/` is shown in the place of what the training has.
Read before: facts.py. Read next: page/script.js, which draws it; summary.py; model_card.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppcls_lite.report.facts import CALIBRATION, CLASSES, IMAGES, Classes, read_facts
from ppcls_lite.report.panels import Panel
from ppcls_lite.report.pictures import read_image
from ppcls_lite.report.sheets import thumbnail
from ppcls_lite.report.summary import RunSummary
from ppcls_lite.report.words import confused
from ppcls_lite.system.files import write_text

PAGE, EXPLAINED = "report.html", "explained"
_PICTURES = (("The first batch, as the network saw it", "first_batch.png"),)
_CELLS = 30_000  # of a matrix, the largest, so that a thousand classes stay a small file
_EDGE, _QUALITY = 1200, 80  # pixels of a large picture, and of JPEG
_CURVES = 400  # points of a curve


def write_page(run_dir: Path, exported: Mapping[str, Any] | None = None) -> Path:
    """Write report.html into `run_dir`; returns the file.

    exported: `folder`, `files` (name -> bytes) and `latencies` (engine -> ms) of an export.
    """
    facts = _facts(RunSummary.of(run_dir), exported or {})
    home = files("ppcls_lite.report").joinpath("page")
    text = home.joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "title": _escaped(f"{facts['title']}: report"),
        "style": home.joinpath("style.css").read_text(encoding="utf-8"),
        "facts": json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c"),
        "script": home.joinpath("script.js").read_text(encoding="utf-8"),
    }
    for name, part in parts.items():
        before, _, behind = text.partition("{{" + name + "}}")
        text = before + part + behind
    path = run_dir / PAGE
    write_text(path, text)
    return path


def _facts(run: RunSummary, exported: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that script.js draws, as plain data."""
    place = run.evaluation
    classes = read_facts(place / CLASSES)
    calibration = read_facts(place / CALIBRATION)
    known = Classes(**classes) if classes else None
    groups = [_group(group, place) for group in read_facts(place / IMAGES) or []]
    pictures = ((title, run.folder / name) for title, name in _PICTURES)
    return {
        "title": run.name,
        "about": run.about,
        "cards": run.cards(),
        "notes": run.notes(),
        "best": run.best,
        "curves": [_thinned(panel) for panel in run.curves()],
        "classes": classes and {**classes, "cells": _largest(classes["cells"])},
        "confused": confused(known, 20) if known else [],
        "matrix_note": _matrix_note(known) if known else "",
        "groups": groups,
        "calibration": calibration,
        "calibration_words": _calibration_words(calibration) if calibration else "",
        "pictures": [[title, uri] for title, path in pictures if (uri := _uri_of(path))],
        "export_note": f"Exported to {exported['folder']}." if exported else "",
        "files": [[name, size / 1e6] for name, size in exported.get("files", {}).items()],
        "latencies": list(exported.get("latencies", {}).items()),
        "repeat": run.repeat(),
        "versions": list(run.versions.items()),
        "recipe": run.recipe,
    }


def _group(group: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """A group of images.json with its pictures inside; `why` is what lies in explained/."""
    images = []
    for number, (file, caption) in enumerate(group["images"]):
        picture = thumbnail(file)
        if picture is not None:
            why = place / EXPLAINED / f"{explained_name(group['title'], number)}.png"
            about = {"name": Path(file).name, "caption": caption}
            images.append({**about, "picture": _uri(picture), "why": _uri_of(why)})
    shown = _uri_of(place / group["picture"]) if group["picture"] else None
    return {"title": group["title"], "images": images, "picture": shown}


def explained_name(title: str, number: int) -> str:
    """What the picture is called that explains an image of a group, without its suffix."""
    words = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
    return f"{words}_{number}"


def _largest(cells: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The diagonal and the largest of the others, as many as the page holds."""
    if len(cells) <= _CELLS:
        return list(cells)
    right = [cell for cell in cells if cell[0] == cell[1]]
    wrong = sorted((c for c in cells if c[0] != c[1]), key=lambda cell: -cell[2])
    return right + wrong[: max(0, _CELLS - len(right))]


def _matrix_note(classes: Classes) -> str:
    """How to read the matrix, and what is left out of it."""
    left = len(classes.cells) - len(_largest(classes.cells))
    note = f"Rows are the truth, columns the answers, in {classes.unit}. "
    if classes.unit == "pixels":
        note += "Numbers are percentages of the row. "
    return note + (f"The {left:,} smallest cells are left out." if left else "")


def _calibration_words(facts: Mapping[str, Any]) -> str:
    text = (
        f"Of {facts['images']:,} images. Points on the dotted line mean what they say, points "
        "below it are too sure of themselves; larger points are more images. Confidence misses "
        f"accuracy by {facts['as_is']['error']:.3f} on average"
    )
    if not facts["fitted"]:
        return f"{text}; no answer is wrong, so there is nothing to fit a temperature to."
    return f"{text}; by {facts['fitted']['error']:.3f} with temperature {facts['temperature']:.2f}."


def _thinned(panel: Panel) -> dict[str, Any]:
    lines = {
        split: [points[i] for i in np.linspace(0, len(points) - 1, _CURVES, dtype=int)]
        if len(points) > _CURVES
        else points
        for split, points in panel.lines.items()
    }
    return {"name": panel.name, "lines": lines}


def _uri_of(file: Path) -> str | None:
    """`_uri` of what `write_image` has written; None where there is no such picture."""
    picture = read_image(file)
    return None if picture is None else _uri(picture)


def _uri(picture: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data URI, JPEG, at most _EDGE pixels wide and high."""
    scale = _EDGE / max(picture.shape[:2])
    if scale < 1:
        size = [max(1, round(edge * scale)) for edge in picture.shape[1::-1]]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
