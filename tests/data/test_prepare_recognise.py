"""Which layout a folder has, found without being told."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.data.prepare.recognise import recognise
from ppcls_lite.errors import UserError

BOXES = {
    "voc": ("a.xml", "<annotation><object/></annotation>"),
    "labelme": ("a.json", json.dumps({"version": "5", "shapes": []})),
    "coco": ("all.json", json.dumps({"info": {}, "images": [], "annotations": []})),
    "yolo": ("data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n"),
}


def images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.full((9, 9, 3), 20 * number, np.uint8)
        (root / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())


@pytest.mark.parametrize("kind", BOXES)
def test_boxes(kind: str, tmp_path: Path) -> None:
    images(tmp_path, "images/a.png", "images/b.png")
    name, text = BOXES[kind]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert recognise(str(tmp_path)).name == kind


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_masks(folder: str, tmp_path: Path) -> None:
    images(tmp_path, *(f"{part}/{i}.png" for part in ("images", folder) for i in range(4)))
    kind = recognise(str(tmp_path))
    assert kind.name == "masks"
    step = kind.prepare(str(tmp_path), str(tmp_path / "out"), 0.5, 0)
    assert not step.own_split and (tmp_path / "out" / "val_list.txt").is_file()


def test_the_split_of_masks(tmp_path: Path) -> None:
    names = [f"{split}/{i}.png" for split in ("train", "val") for i in range(3)]
    images(tmp_path, *(f"{part}/{name}" for part in ("images", "masks") for name in names))
    step = recognise(str(tmp_path)).prepare(str(tmp_path), str(tmp_path / "out"), 0.5, 0)
    lines = (tmp_path / "out" / "val_list.txt").read_text(encoding="utf-8").split()
    assert step.own_split and lines[::2] == [f"images/val/{i}.png" for i in range(3)]


def test_classes(tmp_path: Path) -> None:
    images(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    kind = recognise(str(tmp_path))
    assert kind.name == "folder" and list(kind.sets(str(tmp_path))) == ["Images"]
    step = kind.prepare(str(tmp_path), str(tmp_path / "out"), 0.5, 0)
    assert not (tmp_path / "train_list.txt").exists()
    recipe = Recipe.of(load_config(step.recipe, step.overrides))
    assert len(recipe.settings.DataLoader.Train.dataset.build()) == 2


@pytest.mark.parametrize("val", ["val", "Valid", "test"])
def test_classes_that_are_split(val: str, tmp_path: Path) -> None:
    images(tmp_path, "train/cat/1.png", "train/dog/1.png", f"{val}/dog/2.png")
    kind = recognise(str(tmp_path))
    found = kind.sets(str(tmp_path))
    assert {split: len(data) for split, data in found.items()} == {"Train": 2, "Eval": 1}
    assert found["Eval"].labels.tolist() == [1]
    step = kind.prepare(str(tmp_path), str(tmp_path / "out"), 0.2, 0)
    assert step.own_split
    assert (tmp_path / "out" / "val_list.txt").read_text().split() == [f"{val}/dog/2.png", "1"]
    images(tmp_path, f"{val}/owl/3.png")
    with pytest.raises(UserError, match=r"1 classes have no images in .*train: owl"):
        kind.prepare(str(tmp_path), str(tmp_path / "out"), 0.2, 0)


def test_lists(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "train_list.txt").write_text("a.png 0", encoding="utf-8")
    (tmp_path / "val_list.txt").write_text("b.png 1", encoding="utf-8")
    kind = recognise(str(tmp_path))
    step = kind.prepare(str(tmp_path), "", 0.2, 0)
    assert step.overrides == (f"Global.dataset_dir={tmp_path}",)


def test_what_is_nothing_of_this(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no images"):
        recognise(str(tmp_path))
    images(tmp_path, "a.png", "b.png")
    with pytest.raises(UserError, match="found 2 images, in 0 sub-folders and 2 beside them"):
        recognise(str(tmp_path))
    with pytest.raises(UserError, match="there is no image folder"):
        recognise(str(tmp_path / "nowhere"))
