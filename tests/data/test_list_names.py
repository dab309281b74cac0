"""Names in lists: what was written is read again, and what can be no file is told by the scan."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data.datasets import ImageNetDataset, MultiLabelDataset
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.data.image_list import read_image_list, read_lines, write_lines
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.prepare.cli import run as prepare
from ppcls_lite.data.scan import missing_files, scan
from ppcls_lite.errors import UserError

not_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all"
)


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    return str(path)


BLANKS = [" a.png", "\ta.png", "\u3000a.png", "\xa0 a.png", "a  b.png", " in/ a.png"]


@pytest.mark.parametrize("name", BLANKS)
def test_a_list_that_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    path = put(tmp_path / name)
    write_lines(tmp_path / "list.txt", [f"{name} 1"])
    [found] = read_image_list(str(tmp_path / "list.txt"), str(tmp_path)).paths
    assert Path(found).samefile(path)
    write_lines(tmp_path / "names.txt", [name])
    assert [Path(tmp_path, line) for _, line in read_lines(str(tmp_path / "names.txt"))] == [
        Path(path)
    ]


def test_a_prepared_folder_with_leading_blanks_has_no_missing_image(tmp_path: Path) -> None:
    for group in (" cat", "dog"):
        for name in (" 1.png", "2.png", " deep/ 3.png", "4.png"):
            put(tmp_path / group / name)
    prepare(["folder", str(tmp_path), "--val", "0.25"])
    lists = {
        split: ImageNetDataset(str(tmp_path), str(tmp_path / f"{split}_list.txt"), [])
        for split in ("train", "val")
    }
    assert scan(lists).errors == []
    assert sum(map(len, lists.values())) == 8
    assert all(Path(path).is_file() for data in lists.values() for path in data.paths)


@pytest.mark.parametrize("name", ["a\nb.png", "caf\udce9.png"], ids=["line break", "not UTF-8"])
def test_a_name_that_no_list_can_hold_is_told(name: str, tmp_path: Path) -> None:
    for group in ("cat", "dog"):
        put(tmp_path / group / "1.png")
    put(tmp_path / "dog" / name)
    (tmp_path / "train_list.txt").write_text("earlier")
    with pytest.raises(UserError, match=r"train_list.txt: .*png 1.: a list cannot hold the name"):
        prepare(["folder", str(tmp_path), "--val", "0"])
    assert (tmp_path / "train_list.txt").read_text() == "earlier"
    assert len(FolderDataset(str(tmp_path), []).paths) == 3


@pytest.mark.parametrize(
    "label",
    ["9" * 19, "-" + "9" * 30, "9" * 6000, "1_0", "\u00b2", "0x1", "1.0", "nan"],
    ids=lambda label: label[:5],
)
def test_a_label_that_is_no_class_is_a_malformed_line(label: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.png 1\nb.png {label}\n", encoding="utf-8")
    [problem] = ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), []).problems
    assert problem.startswith(f"{tmp_path}/list.txt:2: expected a whole number as the label")
    assert len(problem) < 1000


@pytest.mark.parametrize(("label", "value"), [("+7", 7), ("-1", -1), ("007", 7)])
def test_other_ways_to_write_a_number(label: str, value: int, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.png {label}\n")
    assert read_image_list(str(tmp_path / "list.txt"), str(tmp_path)).labels == [value]


def test_endless_lines_are_shortened_in_messages(tmp_path: Path) -> None:
    for line in ("x" * 100_000, "a.png " + "0,2," * 50_000, "a.png\t" + "0,2," * 50_000):
        (tmp_path / "list.txt").write_text(line)
        for kind in (ImageNetDataset, MultiLabelDataset):
            assert all(
                len(problem) < 1000
                for problem in kind(str(tmp_path), str(tmp_path / "list.txt"), []).problems
            )


@pytest.mark.parametrize("many", [2, 40])  # looked for one by one, and by listing the folder
def test_names_that_no_file_can_have_and_links_to_nothing_are_missing(
    many: int, tmp_path: Path
) -> None:
    good = [put(tmp_path / f"{i}.png") for i in range(many)]
    (tmp_path / "linked.png").symlink_to(good[0])
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "folder.png").mkdir()
    bad = ["gone.png", "itself.png", "folder.png", "a" * 300 + ".png", "a\0b.png"]
    bad = [str(tmp_path / name) for name in bad]
    bad.append(str(tmp_path / ("d" * 300) / "a.png"))
    assert missing_files([*good, str(tmp_path / "linked.png"), *bad]) == bad


@not_root
@pytest.mark.parametrize("many", [2, 40])
def test_a_folder_without_rights_is_named(many: int, tmp_path: Path) -> None:
    names = [put(tmp_path / "locked" / f"{i}.png") for i in range(many)]
    (tmp_path / "locked").chmod(0)
    try:
        with pytest.raises(UserError, match="locked: the image folder cannot be read: Permission"):
            missing_files(names)
    finally:
        (tmp_path / "locked").chmod(0o755)


@not_root
def test_a_list_without_rights_is_named(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a.png 0\n")
    file.chmod(0)
    for read in (read_lines, read_label_file):
        with pytest.raises(UserError, match=r"list\.txt: cannot be read: Permission denied"):
            read(str(file))


def test_lists_and_folders_of_impossible_names(tmp_path: Path) -> None:
    name = str(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="there is no file"):
        read_lines(name)
    with pytest.raises(UserError, match="there is no image folder"):
        FolderDataset(name, [])
    with pytest.raises(UserError, match="does not exist"):
        read_label_file(name)
