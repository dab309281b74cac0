"""What an evaluation found out, as plain data that tables, words and pages are made of.

Metrics write it into a folder, whatever their task is; words.py and sheets.py show it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppcls_lite.system.files import write_text

CLASSES, IMAGES, CALIBRATION = "classes.json", "images.json", "calibration.json"
Unit = Literal["images", "objects", "pixels"]


@dataclass(frozen=True)
class Classes:
    """Scores of each class, and what was taken for what.

    unit: what `cells` count. names: of the classes. columns: of the scores, the last of them the
    size of a class. scores: a row a class; None where there is nothing to score. key: the column
    by which a class is good or bad. cells: (true class, answered class, count), those above 0.
    nothing: the place among `names`, at their end, of what is no class, as a background.
    """

    unit: Unit
    names: list[str]
    columns: list[str]
    scores: list[list[float | None]]
    key: str
    cells: list[tuple[int, int, int]]
    nothing: int | None = None

    def write(self, folder: Path) -> Path:
        """Write them into `folder`; returns the file."""
        return write_facts(folder / CLASSES, dataclasses.asdict(self))


@dataclass(frozen=True)
class ImageGroup:
    """Some images worth looking at: (file, caption) each, or one `picture` of all of them."""

    title: str
    images: list[tuple[str, str]]
    picture: str | None = None  # a file beside images.json


def write_images(folder: Path, groups: Sequence[ImageGroup]) -> Path:
    """Write groups of images into `folder`; returns the file."""
    return write_facts(folder / IMAGES, [dataclasses.asdict(group) for group in groups])


def cells_of(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """The cells of a matrix (C, C) of counts that are not 0: row, column, count."""
    rows, columns = np.nonzero(matrix)
    counts = matrix[rows, columns]
    return list(zip(rows.tolist(), columns.tolist(), counts.tolist()))


def names_of(count: int, names: Sequence[str] | None) -> list[str]:
    """A name or number for each of `count` classes."""
    return list(names) if names and len(names) == count else [str(n) for n in range(count)]


def write_facts(path: Path, facts: Any) -> Path:
    """Write plain data as JSON; what is no number becomes null."""
    write_text(path, json.dumps(_plain(facts), ensure_ascii=False) + "\n")
    return path


def read_facts(path: Path) -> Any:
    """Plain data from a file of `write_facts`; None if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return round(value, 6) if isinstance(value, float) else value
