"""The scan before training: all mistakes in one report."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ppcls_lite.data import copies
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.data.scan import missing_files, scan
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import UserError


def make(root, lines, name="train_list.txt", **options):
    (root / name).write_text("\n".join(lines), encoding="utf-8")
    return ImageNetDataset(str(root), str(root / name), [], **options)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_good_data_set(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    report = scan({"Train": make(tmp_path, ["a/1.jpg 0", "a/2.jpg 0", "b/1.jpg 1"], class_num=2)})
    assert report.errors == [] and report.warnings == []
    report.raise_errors()


@pytest.mark.parametrize("many", [2, 40])  # looked for one by one, and by listing the folder
def test_all_mistakes_at_once(tmp_path, many):
    touch(tmp_path, "a/1.jpg")
    lines = [f"a/{i}.jpg {i % 2}" for i in range(1, many + 1)]
    train = make(tmp_path, [*lines, "a/x.jpg", "nowhere/1.jpg 9"], class_num=2)
    val = make(tmp_path, [""], "val_list.txt", class_num=2)
    with pytest.raises(UserError) as caught:
        scan({"Train": train, "Eval": val}).raise_errors()
    text = str(caught.value)
    assert text.startswith("4 mistakes in the data:")
    assert f"train_list.txt:{many + 1}: expected a path" in text
    assert "1 label outside 0..1" in text and "Arch.class_num is 2: set it to 10" in text
    assert f"{many} of {many + 1} images do not exist" in text and "a/2.jpg" in text
    assert "Eval: " in text and "the list is empty" in text
    assert ("and" in text and "more" in text) == (many > 5)


def test_missing_files_keep_their_order(tmp_path):
    touch(tmp_path, *(f"d/{i}.jpg" for i in range(0, 60, 2)))
    paths = [str(tmp_path / "d" / f"{i}.jpg") for i in range(59, -1, -1)]
    assert missing_files(paths) == [str(tmp_path / "d" / f"{i}.jpg") for i in range(59, 0, -2)]


def test_warnings(tmp_path):
    names = [f"{i}.jpg" for i in range(4)]
    touch(tmp_path, *names)
    train = make(tmp_path, ["0.jpg 0", "./0.jpg 0", "1.jpg 1", "2.jpg 1"], class_num=3)
    val = make(tmp_path, ["3.jpg 0", "1.jpg 1", "./2.jpg 1"], "val_list.txt", class_num=3)
    report = scan({"Train": train, "Eval": val})
    assert report.errors == []
    twice, unseen, untested, shared = report.warnings
    assert "1 images are listed more than once" in twice and "0.jpg" in twice
    assert "1 of 3 classes have no image: 2" in unseen and unseen.startswith("Train")
    assert "1 of 3 classes have no image: 2" in untested and untested.startswith("Eval")
    assert "2 images are in Train as well as in Eval" in shared and "1.jpg" in shared
    (same,) = scan({"Train": val, "Eval": val}).warnings[2:]
    assert "Train and Eval read the same list" in same


def test_a_large_list_is_quick(tmp_path):
    names = [f"d{i % 20}/{i}.jpg" for i in range(20_000)]
    for i in range(20):
        (tmp_path / f"d{i}").mkdir()
    touch(tmp_path, *names[:2000])
    data = make(tmp_path, [f"{name} {i % 20}" for i, name in enumerate(names)], class_num=20)
    start = time.perf_counter()
    report = scan({"Train": data})
    assert time.perf_counter() - start < 2  # 0.05 s alone on a machine
    assert "18,000 of 20,000 images do not exist" in report.errors[0]
    assert np.bincount(data.labels).tolist() == [1000] * 20


def test_real_photographs(real_data):
    root = real_data / "cifar10"
    listed = ImageNetDataset(str(root), str(root / "train_list.txt"), [DecodeImage()], class_num=10)
    folders = FolderDataset(str(root / "train"), [DecodeImage()], class_num=10)
    report = scan({"Train": listed, "Eval": folders})
    assert report.errors == []
    assert any("6,000 images are in Train as well as in Eval" in w for w in report.warnings)
    labels = dict(zip(listed.paths, listed.labels))
    assert all(labels[path] == label for path, label in zip(folders.paths, folders.labels))
    assert listed[0]["image"].shape == (3, 32, 32)


def test_numbers_of_which_nothing_says_that_they_are_the_same(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "val/b/2.jpg")
    train = make(tmp_path, ["a/1.jpg 0", "b/1.jpg 1"])
    found = scan({"Train": train, "Eval": FolderDataset(str(tmp_path / "val"), [])}).warnings
    assert any("Eval numbers its classes itself (b), the list of Train" in text for text in found)
    both = make(tmp_path, ["a/1.jpg 0", "b/1.jpg 1"], relabel=True)
    found = scan({"Train": both, "Eval": FolderDataset(str(tmp_path / "val"), [])}).warnings
    assert not any("numbers its classes itself" in text for text in found)


def test_copies_under_other_names(tmp_path):
    pixels = np.random.default_rng(0).bytes(9000)
    for name, data in {
        "a.jpg": pixels,
        "b.jpg": pixels[:-1] + b"x",  # the same size and beginning
        "c.jpg": pixels[:-2],
        "val/a copy.jpg": pixels,
        "val/d.jpg": pixels[:-1] + b"y",
        "val/empty.jpg": b"",
        "empty.jpg": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    train = make(tmp_path, ["a.jpg 0", "b.jpg 1", "c.jpg 1", "empty.jpg 0"])
    lines = ["val/a copy.jpg 0", "val/d.jpg 1", "val/empty.jpg 0"]
    val = make(tmp_path, lines, "val_list.txt")
    (found,) = scan({"Train": train, "Eval": val}).warnings
    assert "1 of 3 images of Eval" in found and "a copy.jpg" in found and "d.jpg" not in found


def test_how_many_files_are_looked_at_and_read_is_bounded(tmp_path, monkeypatch):
    for folder in ("t", "v"):
        (tmp_path / folder).mkdir()
        for i in range(40):
            (tmp_path / folder / f"{i}").write_bytes(bytes([i]) * 50)
    paths = [[str(tmp_path / folder / f"{i}") for i in range(40)] for folder in ("t", "v")]
    assert copies.copies(*paths) == (paths[1], 40)
    monkeypatch.setattr(copies, "LOOKED_AT", (40, 10))
    assert copies.copies(*paths) == (paths[1][::4], 10)
    read = []
    monkeypatch.setattr(copies, "READ", 20)
    monkeypatch.setattr(copies, "_digest", lambda path, length=-1: read.append(path) or b"")
    copies.copies(*paths)
    assert 0 < len(set(read)) <= 20


def test_a_class_that_is_nearly_all(tmp_path):
    names = [f"{i}.jpg" for i in range(10)]
    touch(tmp_path, *names)
    lopsided = make(tmp_path, [f"{n} {int(n == '3.jpg')}" for n in names], class_num=2)
    (found,) = scan({"Eval": lopsided}).warnings
    assert "90.0% of the images are of class 0" in found and "top1 0.9000" in found
    even = make(tmp_path, [f"{n} {i % 3 == 0:d}" for i, n in enumerate(names)], class_num=2)
    assert scan({"Eval": even}).warnings == []
