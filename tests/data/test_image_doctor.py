"""What `check` says about images: unreadable, copied, odd; and lists without copies in both."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data.class_table import ClassTable
from ppcls_lite.data.datasets import ImageNetDataset, MultiLabelDataset
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.data.grouped_split import grouped_split
from ppcls_lite.data.image_doctor import Finding, examine, findings, sizes


def picture(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(30, 220, (6, 6, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path: Path, image: np.ndarray, suffix: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(suffix or path.suffix, image)[1].tobytes())


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train and val of two classes, with one of each fault."""
    for i in range(12):
        write(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", picture(i))
    for i in range(12, 16):
        write(tmp_path / "val" / "ab"[i % 2] / f"{i}.png", picture(i))
    write(tmp_path / "train" / "a" / "again.png", picture(2))  # the same bytes
    write(tmp_path / "train" / "b" / "other.jpg", picture(4))  # in another class
    write(tmp_path / "val" / "b" / "shared.png", picture(3, 80, 80))
    write(tmp_path / "train" / "a" / "blank.png", np.full((40, 40, 3), 9, np.uint8))
    write(tmp_path / "train" / "a" / "tiny.png", picture(50, 8, 40)[:, :30])
    write(tmp_path / "train" / "a" / "narrow.png", picture(51, 20, 150))
    write(tmp_path / "train" / "b" / "named.jpg", picture(52), ".png")
    (tmp_path / "val" / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def sets(root: Path) -> dict[str, FolderDataset]:
    return {"Train": FolderDataset(f"{root}/train", []), "Eval": FolderDataset(f"{root}/val", [])}


def test_every_fault_is_named_once(folders: Path) -> None:
    found: dict[str, Finding] = {f.kind: f for f in findings(examine(sets(folders)))}
    assert {kind: len(f.items) for kind, f in found.items()} == dict.fromkeys(
        ("unreadable", "mislabelled", "shared", "copies", "blank", "tiny", "narrow", "misnamed"), 1
    )
    items = {kind: f.items[0].replace(f"{folders}/", "") for kind, f in found.items()}
    assert items["copies"] == "train/a/2.png = train/a/again.png (same bytes)"
    assert items["shared"] == "train/b/3.png [Train] = val/b/shared.png [Eval] (same picture)"
    assert items["mislabelled"] == "train/a/4.png [a] = train/b/other.jpg [b] (same picture)"
    assert items["tiny"] == "train/a/tiny.png (30 x 8)"
    assert items["misnamed"] == "train/b/named.jpg is PNG"
    assert items["unreadable"].startswith("val/b/broken.png: ")
    assert found["unreadable"].wrong and not found["shared"].wrong
    assert "evaluation stops" in found["unreadable"].text


def test_few_unreadable_images_do_not_stop_a_training(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.png").write_bytes(cv2.imencode(".png", picture(i, 20, 20))[1].tobytes())
    lines = "\n".join(f"{i}.png 0" for i in range(100))
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8")
    listed = ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), [])
    (tmp_path / "7.png").write_bytes(b"")
    (one,) = findings(examine({"Train": listed}))
    assert not one.wrong and "passes over so few" in one.text
    (tmp_path / "8.png").unlink()
    (two,) = findings(examine({"Train": listed}))
    assert two.wrong and "2 of 100" in two.text and "stops at so many" in two.text


def test_a_part_of_the_images(folders: Path) -> None:
    assert len(examine(sets(folders), limit=4).splits) <= 8


def test_the_split_without_copies_in_both(folders: Path) -> None:
    found = examine(sets(folders))
    made = grouped_split(found, 0.2, 0)
    names = [Path(found.census.looks[i].path).name for i in made.keep]
    val = {name for name, chosen in zip(names, made.in_val) if chosen}
    assert val == {"12.png", "13.png", "14.png", "15.png"}  # shared.png is for training now
    assert "shared.png" in names and made.unreadable == 1 and made.contradicting == 2
    assert not {"broken.png", "4.png", "other.jpg"} & {*names}


def test_a_new_split_keeps_groups_together(tmp_path: Path) -> None:
    for i in range(40):
        for copy in range(3 if i < 20 else 1):
            write(tmp_path / "ab"[i % 2] / f"{i}_{copy}.png", picture(i, 30 + copy, 30 + copy))
    found = examine({"Images": FolderDataset(str(tmp_path), [])})
    made = grouped_split(found, 0.25, 1)
    sides: dict[str, set[bool]] = {}
    for i, chosen in zip(made.keep, made.in_val.tolist()):
        sides.setdefault(Path(found.census.looks[i].path).stem.partition("_")[0], set()).add(chosen)
    assert len(sides) == 40 and all(len(its) == 1 for its in sides.values())
    assert sum(True in its for its in sides.values()) == 10  # a quarter of each class


def test_sizes(folders: Path) -> None:
    looks = examine(sets(folders)).census.looks
    assert sizes(looks) == "30 x 8 to 80 x 80 pixels, in the middle 40 x 40"
    assert sizes([look for look in looks if look.path.endswith("7.png")]) == "all 40 x 40 pixels"
    assert sizes([]) == ""


def test_the_table_of_classes(tmp_path: Path) -> None:
    counts = {"cat": 30, "dog": 2, "owl": 1}
    for name, count in counts.items():
        for i in range(count):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{i}.png").touch()
    table = ClassTable.of({"Images": FolderDataset(str(tmp_path), [])})
    assert table.as_dict() == {name: {"Images": count} for name, count in counts.items()}
    assert table.always_largest() == ("cat", 30 / 33)
    assert table.lines()[-1] == "always answering cat is right for 90.9%"
    few, uneven = table.warnings()
    assert "classes with 1 of the images: owl" in few and "30 times the images of owl" in uneven


def test_the_table_of_many_classes_is_short() -> None:
    table = ClassTable([f"c{i}" for i in range(1000)], {"Train": np.arange(1, 1001)}, "images")
    lines = table.lines()
    assert len(lines) == 43 and "960 classes between" in lines[21] and lines[1].startswith("c999")


def test_the_table_of_attributes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\t1,0\nb.png\t1,-1", encoding="utf-8")
    listed = MultiLabelDataset(str(tmp_path), str(tmp_path / "list.txt"), [])
    table = ClassTable.of({"Train": listed})
    assert table.as_dict() == {"0": {"Train": 2}, "1": {"Train": 0}}
