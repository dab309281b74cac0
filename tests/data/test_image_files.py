"""Which files of a folder are images: the same ones for training, a pool, lists and prediction."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data.files import class_folders, images_in, path_in, walk_files, walk_images
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.data.prepare.cli import run as prepare
from ppcls_lite.data.unlabeled import pool_of
from ppcls_lite.errors import UserError
from ppcls_lite.inference.inputs import find_images


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes with all that may lie about in a folder of images."""
    root = tmp_path / "pets"
    for name in (
        *("cat/1.jpg", "cat/2.JPEG", "cat/3.jfif", "cat/4.jpe", "cat/deep/er/5.webp"),
        *("dog/6.png", "dog/7.tif", "dog/old/8.bmp", "dog/old-9.gif"),
        *("cat/.ipynb_checkpoints/x.jpg", "cat/deep/.trash/x.jpg", "cat/._1.jpg"),
        *("cat/@eaDir/x.jpg", "dog/__MACOSX/x.png", ".cache/x.png", "__MACOSX/cat/x.png"),
        *("cat/notes.txt", "dog/8.png.txt"),
    ):
        put(root / name)
    (root / "dog" / "a folder.png").mkdir()
    (root / "dog" / "up").symlink_to(root)
    (root / "cat" / "deep" / "again").symlink_to(root / "cat" / "deep")
    (root / "all").symlink_to(root)
    put(tmp_path / "elsewhere" / "10.jpg")
    (root / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (root / "dog" / "itself.jpg").symlink_to(root / "dog" / "itself.jpg")
    return root


CATS = ["1.jpg", "2.JPEG", "3.jfif", "4.jpe", "deep/er/5.webp", "linked/10.jpg"]
DOGS = ["6.png", "7.tif", "gone.jpg", "itself.jpg", "old/8.bmp", "old-9.gif"]
ALL = [f"cat/{name}" for name in CATS] + [f"dog/{name}" for name in DOGS]


def of_folder_data_set(root: Path) -> list[str]:
    return list(FolderDataset(str(root), [{"DecodeImage": {}}]).paths)


def of_pool(root: Path) -> list[str]:
    return list(pool_of(str(root)))


def of_prediction(root: Path) -> list[str]:
    return [str(path) for path in find_images([root])]


def of_prepared_lists(root: Path) -> list[str]:
    prepare(["folder", str(root), "--val", "0"])
    lines = (root / "train_list.txt").read_text().splitlines()
    return [str(root / line.rpartition(" ")[0]) for line in lines]


@pytest.mark.parametrize(
    "way", [of_folder_data_set, of_pool, of_prediction, of_prepared_lists], ids=lambda w: w.__name__
)
def test_all_commands_see_the_same_images(way: Callable[[Path], list[str]], pets: Path) -> None:
    assert sorted(way(pets)) == sorted(str(pets / name) for name in ALL)


def test_a_list_of_names_with_rare_characters(tmp_path: Path) -> None:
    """Which Python takes for the ends of lines."""
    names = ["a\x85b.png", "c\u2028d.png", "e\x0cf.png"]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{name}\r\n" for name in names), encoding="utf-8", newline="")
    assert find_images([listed]) == [tmp_path / name for name in names]


def test_the_orders_are_fixed(pets: Path) -> None:
    assert list(walk_images(pets)) == ALL
    assert [str(path) for path in find_images([pets])] == [str(pets / name) for name in ALL]
    assert class_folders(pets) == ["cat", "dog"]
    assert images_in(pets, "cat") == CATS
    assert images_in(pets, "dog") == sorted(DOGS)  # "old-9.gif" before "old/8.bmp"
    assert images_in(pets, "dog") != DOGS


def test_hidden_files_can_be_counted(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    below_cat = list(walk_files(pets / "cat", hidden=True))
    assert len(below_cat) == len(CATS) + len(["x", "x", "x", "._1", "notes"])
    prepare(["folder", str(pets), "--output", str(pets.parent / "lists")])
    assert "7 other files in the sub-folders are left out" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_read_is_named(pets: Path) -> None:
    (pets / "cat" / "deep").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cat/deep: the folder cannot be read: Permission"):
            list(walk_images(pets))
    finally:
        (pets / "cat" / "deep").chmod(0o755)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("my cat.jpg 3", "my cat.jpg"),
        ("my cat.jpg", "my cat.jpg"),
        ("a.jpg.png\t3", "a.jpg.png"),
        ("no suffix", "no suffix"),
        ("a.JPEG,0.5,3", "a.JPEG"),
        ("a.jpgs/b.png", "a.jpgs/b.png"),
        ("a.jfif 2", "a.jfif"),
    ],
)
def test_the_path_in_a_line(line: str, path: str) -> None:
    assert path_in(line) == path
