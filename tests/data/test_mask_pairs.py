"""Images find their masks by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_lite.data.mask_pairs import ends_with, pair, read_keys
from ppcls_lite.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(pairs: object, root: Path) -> list[tuple[str, str]]:
    return [
        (Path(a).relative_to(root).as_posix(), Path(b).relative_to(root).as_posix())
        for a, b in zip(pairs.paths, pairs.masks, strict=True)
    ]


def test_a_missing_file_shifts_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/sub/c.jpg")
    touch(tmp_path, "masks/a.png", "masks/sub/c.png", "masks/d.png")
    pairs = pair(str(tmp_path / "images"), str(tmp_path / "masks"))
    assert found(pairs, tmp_path) == [
        ("images/a.jpg", "masks/a.png"),
        ("images/sub/c.jpg", "masks/sub/c.png"),
    ]
    (problem,), (note,) = pairs.problems, pairs.notes
    assert "1 of 3 images have no mask" in problem and "b.jpg" in problem
    assert "1 masks in" in note and "d.png" in note


def test_suffixes_of_names_and_lists_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "i/x_leftImg8bit.png", "i/y_leftImg8bit.png", "i/notes.png")
    touch(tmp_path, "m/x_gtFine_labelTrainIds.png", "m/y_gtFine_labelTrainIds.png", "m/x_color.png")
    keys = ends_with("_leftImg8bit.png"), ends_with("_gtFine_labelTrainIds.png")
    folders = str(tmp_path / "i"), str(tmp_path / "m")
    pairs = pair(*folders, *keys)
    assert [a for a, _ in found(pairs, tmp_path)] == ["i/x_leftImg8bit.png", "i/y_leftImg8bit.png"]
    assert not pairs.problems and not pairs.notes

    (tmp_path / "val.txt").write_text("y\nz\n", encoding="utf-8")
    chosen = pair(*folders, *keys, only=read_keys(tmp_path / "val.txt"))
    assert [a for a, _ in found(chosen, tmp_path)] == ["i/y_leftImg8bit.png"]
    assert chosen.problems == [f"{tmp_path}/i: 1 images are missing: z"]
    (tmp_path / "val.txt").write_text("y.png\n", encoding="utf-8")
    assert read_keys(tmp_path / "val.txt") == ["y"]


def test_two_files_of_one_name_and_empty_folders_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png")
    (tmp_path / "none").mkdir()
    pairs = pair(str(tmp_path / "images"), str(tmp_path / "masks"))
    assert len(pairs.paths) == 1 and "1 names stand for two files: a.jpg and a.png" in str(
        pairs.problems
    )
    empty = pair(str(tmp_path / "none"), str(tmp_path / "masks"))
    assert "there are no images" in empty.problems[0]
    with pytest.raises(UserError, match="there is no image folder"):
        pair(str(tmp_path / "images"), str(tmp_path / "no masks"))
