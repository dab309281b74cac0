"""Sheets of sample images: rows of classes, grids with what is annotated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.datasets_segmentation import SegDataset
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.report.samples import CELL, GAP, GRID_CELL, draw_sheet, write_samples
from ppcls_lite.system.fonts import fitting


def image(path: Path, colour: int, shape: tuple[int, ...] = (20, 10, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, colour, np.uint8)).save(path)


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_a_row_for_each_class(classes: int, tmp_path: Path) -> None:
    for number in range(classes):
        for i in range(number % 3 + 1):
            image(tmp_path / "data" / f"{number:02d} oak" / f"{i}.png", 8 * number)
    (tmp_path / "data" / "01 oak" / "broken.png").write_bytes(b"")
    written = write_samples(FolderDataset(str(tmp_path / "data"), []), tmp_path)
    assert [path.name for path in written] == ["samples.png", "samples_2.png"][: 1 + (classes > 25)]
    sheet = np.asarray(Image.open(written[0]))
    rows = min(classes, 25)
    assert sheet.shape[0] == rows * (CELL + GAP) + GAP
    first = sheet.shape[1] - 3 * (CELL + GAP) + CELL // 2 - (0 if classes > 2 else -(CELL + GAP))
    for row in range(rows):
        assert sheet[GAP + row * (CELL + GAP) + CELL // 2, first].tolist() == [8 * row] * 3


def test_a_grid_with_masks(tmp_path: Path) -> None:
    for i in range(5):
        image(tmp_path / "images" / f"{i}.png", 100, (8, 8, 3))
        image(tmp_path / "masks" / f"{i}.png", i, (8, 8))
    (path,) = write_samples(SegDataset(str(tmp_path), []), tmp_path)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[:2] == (2 * (GRID_CELL + GAP) + GAP, 4 * (GRID_CELL + GAP) + GAP)
    middle = GAP + GRID_CELL // 2
    assert len({tuple(sheet[middle, middle + i * (GRID_CELL + GAP)]) for i in range(4)}) == 4


def test_long_names_are_cut() -> None:
    assert fitting("cat", 100, 13) == "cat"
    cut = fitting("a very long name of a class", 100, 13)
    assert cut.endswith("…") and cut.startswith("a very")
    assert draw_sheet([("\nzwei", [])]).size[1] == CELL + 2 * GAP
