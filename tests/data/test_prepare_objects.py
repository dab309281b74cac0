"""`ppcls-lite prepare coco|voc|yolo|labelme`: what it writes, says, and refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.config.check import build, check
from ppcls_lite.config.file import load_config, parse_value
from ppcls_lite.data.datasets_detection import BoxDataset
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.prepare.cli import run
from ppcls_lite.data.scan import scan
from ppcls_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COUNT = 10


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())


def coco_file(path: Path, names: list[str]) -> None:
    images = [
        {"id": 5 + i, "file_name": name, "width": 30, "height": 20} for i, name in enumerate(names)
    ]
    boxes = [
        {"image_id": 5 + i, "category_id": 3 + 4 * (i % 2), "bbox": [1, 2, 8 + i, 9]}
        for i in range(len(names) - 1)
    ]
    kinds = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))


def make(kind: str, root: Path) -> None:
    names = [f"{i}.png" for i in range(COUNT)]
    match kind:
        case "coco":
            for split in ("train2017", "val2017"):
                for name in names:
                    image(root / split / name)
                coco_file(root / "annotations" / f"instances_{split}.json", names)
                coco_file(root / "annotations" / f"person_keypoints_{split}.json", names[:1])
            (root / "annotations" / "results_val.json").write_text("[]")
        case "coco_alone":
            for name in names:
                image(root / "images" / name)
            coco_file(root / "all.json", names)
        case "voc":
            for number, name in enumerate(names):
                image(root / "JPEGImages" / name)
                voc_file(root / "Annotations" / f"{number}.xml", ("cat", "dog")[number % 2])
        case "yolo":
            for split in ("train", "val"):
                for number, name in enumerate(names):
                    image(root / split / "images" / name)
                    label = root / split / "labels" / f"{number}.txt"
                    label.parent.mkdir(parents=True, exist_ok=True)
                    label.write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
            (root / "data.yaml").write_text(
                "train: ../train/images\nval: ../val/images\nnc: 2\nnames: [cat, dog]\n"
            )
        case "labelme":
            for number, name in enumerate(names):
                image(root / name)
                shape = {"label": ("cat", "dog")[number % 2], "points": [[1, 2], [9, 12]]}
                content = {"imagePath": name, "shapes": [shape | {"shape_type": "rectangle"}]}
                (root / f"{number}.json").write_text(json.dumps(content))


def voc_file(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>12</ymax>"
    path.write_text(
        "<annotation><size><width>30</width><height>20</height></size>"
        f"<object><name>{kind}</name><bndbox>{box}</bndbox></object></annotation>"
    )


def command_of(printed: str) -> tuple[str, list[str]]:
    """The recipe and the overrides of a printed command."""
    command = printed.partition("next, for example:\n")[2].replace("\\\n", " ")
    words = shlex.split(command)
    return words[words.index("-c") + 1], [word for word in words if "=" in word]


def datasets(command: str) -> dict[str, BoxDataset]:
    """The data sets that a printed command trains on."""
    words = [word for word in shlex.split(command.replace("\\\n", " ")) if "=" in word]
    found: dict[str, dict[str, Any]] = {"Train": {}, "Eval": {}}
    for word in words:
        key, _, value = word.partition("=")
        way = key.split(".")
        if way[0] == "DataLoader":
            found[way[1]][way[3]] = parse_value(value)
    return {
        s: build(node | {"transform_ops": ["DecodeImage"]}, "dataset") for s, node in found.items()
    }


@pytest.mark.parametrize("kind", ["coco", "coco_alone", "voc", "yolo", "labelme"])
def test_the_printed_command_trains_on_what_was_written(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(kind, tmp_path)
    assert run([kind.partition("_")[0], str(tmp_path), "--val", "0.3"]) == 0
    printed = capsys.readouterr().out
    assert read_label_file(tmp_path / "label_list.txt") == ["cat", "dog"]
    assert "class_num=2" in printed and str(tmp_path / "label_list.txt") in printed
    data = datasets(printed.partition("next, for example:\n")[2])
    assert scan(data).errors == []
    recipe, overrides = command_of(printed)
    check(load_config(ROOT / recipe, overrides))
    sizes = {split: len(dataset) for split, dataset in data.items()}
    own = kind in ("coco", "yolo")
    assert sizes == ({"Train": COUNT, "Eval": COUNT} if own else {"Train": 7, "Eval": 3})
    assert not own or f"Train: {COUNT} images" in printed
    for dataset in data.values():
        assert dataset.class_keys == ["cat", "dog"]
        assert dataset[0]["count"] in (0, 1)
    assert kind == "coco" or not set(data["Train"].paths) & set(data["Eval"].paths)


def test_a_split_of_vocs_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("voc", tmp_path)
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("1\n2\n")
    (main / "val.txt").write_text("3\n")
    run(["voc", str(tmp_path)])
    assert (tmp_path / "val_list.txt").read_text() == "JPEGImages/3.png Annotations/3.xml\n"
    assert "dog            1          1" in capsys.readouterr().out
    (main / "val.txt").write_text("3\n77\n")
    with pytest.raises(UserError, match="1 names of the val split have no image"):
        run(["voc", str(tmp_path)])


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("coco", "there is no JSON file with"),
        ("voc", "no image has an XML file of its name"),
        ("yolo", "expected one data.yaml, found none"),
        ("labelme", "there are no JSON files"),
    ],
)
def test_folders_without_annotations(kind: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem):
        run([kind, str(tmp_path)])
    with pytest.raises(UserError, match=r"--val is 1\.5"):
        run([kind, str(tmp_path), "--val", "1.5"])
    with pytest.raises(UserError, match="there is no image folder"):
        run([kind, str(tmp_path / "none")])


def test_mistakes_are_told_at_once(tmp_path: Path) -> None:
    make("yolo", tmp_path)
    (tmp_path / "train" / "labels" / "0.txt").write_text("5 0.5 0.5 0.1 0.1\n0 1 2\n")
    (tmp_path / "val" / "labels" / "3.txt").write_text("0 40 50 3 3\n")
    with pytest.raises(UserError) as caught:
        run(["yolo", str(tmp_path)])
    for text in ("class that is not in 0..1", "lines are not `class x y", "no shares from 0 to 1"):
        assert text in str(caught.value)
    assert not (tmp_path / "label_list.txt").exists()


def test_coco_files_that_cannot_be_told_apart(tmp_path: Path) -> None:
    make("coco_alone", tmp_path)
    coco_file(tmp_path / "other.json", ["0.png"])
    with pytest.raises(UserError, match="expected one file, or one with train and one with val"):
        run(["coco", str(tmp_path)])
    (tmp_path / "other.json").unlink()
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(UserError, match=r"its first image, 0\.png, is in none of"):
        run(["coco", str(tmp_path)])
