"""Sheets of small pictures: every readable image is there, with its name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.report.facts import ImageGroup, write_images
from ppcls_lite.report.sheets import EDGE, draw_sheets, lines, sheet


def test_groups_become_files_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    image = np.full((40, 80, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (tmp_path / "b.png").write_bytes(b"no image")
    known = [(str(tmp_path / name), "cat 0.97, is dog") for name in ("a.png", "b.png", "c.png")]
    groups = [ImageGroup("The worst!", known), ImageGroup("Unreadable", known[1:])]
    write_images(tmp_path, groups)
    (path,) = draw_sheets(tmp_path)
    assert path.name == "the_worst_.png"
    picture = cv2.imread(str(path))
    assert picture.shape[1] == EDGE + 8 and (picture == 200).all(axis=2).sum() >= EDGE * EDGE // 2


def test_a_sheet_has_six_columns() -> None:
    pictures = [(np.zeros((EDGE, EDGE, 3), np.uint8), ["name"])] * 7
    height, width, _ = sheet(pictures).shape
    assert width == 6 * (EDGE + 8) and height == 2 * (EDGE + 8 + 14)


def test_long_names_keep_their_end() -> None:
    name, *caption = lines("folder/" + "x" * 40 + "_17.jpg", "a caption that is longer than a line")
    assert name.startswith("...") and name.endswith("_17.jpg") and len(name) == 24
    assert " ".join(caption) == "a caption that is longer than a line"
    assert all(len(line) <= 24 for line in caption)
