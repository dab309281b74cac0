"""Sheets of sample images, a row for each class, or a plain grid: what is in the data, to look at.

Read before: ../data/dataset_base.py. Read next: ../recipe/check.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import UserError
from ppcls_lite.report.pictures import write_image
from ppcls_lite.system.fonts import fitting, font_for

ROWS, COLUMNS, CELL = 25, 8, 96  # of a sheet of classes: pictures, and pixels of their edge
GRID_COLUMNS, GRID_CELL = 4, 240  # of a sheet of pictures with boxes or masks
GAP = 4  # pixels between two
_NAME = 160  # pixels for a class's name
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def write_samples(dataset: ImageDataset, folder: Path) -> list[Path]:
    """Write `samples.png` (`samples_2.png`, ... for more than 25 classes): a row of images for each
    class, or a grid where images have no class of their own, with what is annotated drawn on them.

    Images that cannot be read are left out.
    """
    shown = undecorated(dataset)
    rows = list(_rows(dataset))
    sheets = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
    written = []
    for number, sheet in enumerate(sheets, 1):
        pictures = [(name, _pictures(shown, places)) for name, places in sheet]
        path = folder / f"samples{f'_{number}' if number > 1 else ''}.png"
        drawn = draw_sheet(pictures, cell=CELL if sheet[0][0] else GRID_CELL)
        write_image(np.asarray(drawn), path)
        written.append(path)
    return written


def undecorated(dataset: ImageDataset) -> ImageDataset:
    """A copy that decodes its images and changes nothing about them, (H, W, 3) uint8."""
    plain = copy.copy(dataset)
    plain.transforms = Compose([DecodeImage()], to_chw=False)
    return plain


def _rows(dataset: ImageDataset) -> Iterator[tuple[str, list[int]]]:
    """A name and the places of images, evenly from the whole list, more than a row has."""
    if dataset.labels is None or dataset.labels.ndim != 1:
        chosen = _spread(list(range(len(dataset))), 4 * GRID_COLUMNS)
        for start in range(0, len(chosen), GRID_COLUMNS):
            yield "", chosen[start : start + GRID_COLUMNS]
        return
    keys = dataset.class_keys
    order = np.argsort(dataset.labels, kind="stable")
    bounds = np.searchsorted(dataset.labels[order], np.arange(dataset.class_num + 1))
    for label in range(dataset.class_num):
        members = order[bounds[label] : bounds[label + 1]].tolist()
        named = keys is not None and label < len(keys)
        name = f"{keys[label]}" if named else f"class {label}"
        yield f"{name}\n{len(members):,}", _spread(members, 2 * COLUMNS)


def _spread(places: list[int], count: int) -> list[int]:
    return [places[i] for i in np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)]


def _pictures(dataset: ImageDataset, places: Sequence[int]) -> list[np.ndarray]:
    """As many of the images as a row has."""
    found: list[np.ndarray] = []
    for place in places:
        if len(found) == COLUMNS:
            break
        try:
            sample = dataset[place]
        except UserError:  # unreadable, or annotated for another picture
            continue
        found.append(dataset.draw(sample["image"], sample))
    return found


def draw_sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], cell: int = CELL) -> Image.Image:
    """Rows of a name, of up to two lines, and pictures (H, W, 3) uint8 in squares of `cell`."""
    left = _NAME if any(name for name, _ in rows) else 0
    columns = max((len(pictures) for _, pictures in rows), default=1)
    step = cell + GAP
    sheet = Image.new("RGB", (left + columns * step + GAP, len(rows) * step + GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, (name, pictures) in enumerate(rows):
        top = GAP + row * step
        for line, text in enumerate(name.split("\n")):
            shown = fitting(text, left - 2 * GAP, 13)
            pen.text((GAP, top + 4 + 18 * line), shown, _INK, font_for(text, 13))
        for column, picture in enumerate(pictures):
            small = fitted(picture, cell)
            dx, dy = ((cell - edge) // 2 for edge in small.size)
            sheet.paste(small, (left + GAP + column * step + dx, top + dy))
    return sheet


def fitted(picture: np.ndarray, edge: int) -> Image.Image:
    """A picture as large as fits into a square; small ones are enlarged without smoothing."""
    image = Image.fromarray(picture)
    scale = edge / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return image.resize(size, how)
