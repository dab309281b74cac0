"""`check --fix` of boxes and masks: no picture in two splits, and a recipe that reads the lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_lite.cli import main
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.data.annotations.coco import read_coco
from ppcls_lite.data.annotations.table import CROWD, DIFFICULT
from ppcls_lite.recipe.parts import build_datasets


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))


def picture(path: Path, seed: int, shape: tuple[int, ...] = (48, 64, 3)) -> None:
    """Coarse noise: every seed gives a picture that is no copy of another's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, *shape[2:]), np.uint8)
    Image.fromarray(small).resize(shape[1::-1], Image.Resampling.BICUBIC).save(path)


OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def voc(root: Path, pictures: dict[str, int], split: dict[str, list[str]] | None) -> None:
    """Two boxes on each picture, the second of which is difficult on every other one."""
    for number, (name, seed) in enumerate(pictures.items()):
        picture(root / "JPEGImages" / f"{name}.png", seed)
        first = OBJECT.format("cat", 0, 3 + seed, 5, 23 + seed, 37)
        second = OBJECT.format("dog", number % 2, 11, 2 + seed, 60, 40)
        text = f"<annotation><filename>{name}.png</filename><size><width>64</width>"
        text += f"<height>48</height></size>{first}{second}</annotation>"
        file = root / "Annotations" / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for name, names in (split or {}).items():
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(names), encoding="utf-8")


def by_name(file: Path) -> dict[str, tuple[Any, ...]]:
    table = read_coco(str(file))
    assert not table.problems
    found = {}
    for i, name in enumerate(table.files):
        its = slice(table.starts[i], table.starts[i + 1])
        arrays = (table.boxes[its], table.classes[its], table.flags[its], table.areas[its])
        found[name] = tuple(a.tolist() for a in arrays)
    return found


def test_copies_of_boxes_are_taught_and_the_boxes_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy leaves the evaluation; every box, class and mark is what VOC's files say."""
    pictures = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "copy": 1}
    root = tmp_path / "photos"
    voc(root, pictures, {"train": ["a", "b", "c"], "val": ["d", "e", "copy"]})
    before = sorted(path for path in root.rglob("*"))
    assert main(["check", str(root), "--fix"]) == 0
    said = capsys.readouterr().out
    assert "4 images for training, 2 for validation" in said
    assert sorted(path for path in root.rglob("*")) == before  # nothing is written there
    place = tmp_path / "photos_lists"
    train, held = (by_name(place / f"grouped_{split}.json") for split in ("train", "eval"))
    assert sorted(train) == ["a.png", "b.png", "c.png", "copy.png"]
    assert sorted(held) == ["d.png", "e.png"]
    for number, (name, seed) in enumerate(pictures.items()):
        boxes, classes, flags, areas = (train | held)[f"{name}.png"]
        # VOC counts pixels from 1 and includes the last
        assert boxes == [[3 + seed, 5, 23 + seed, 37], [11, 2 + seed, 60, 40]]
        assert classes == [0, 1] and flags == [0, DIFFICULT * (number % 2)]
        assert areas == [20 * 32, 49 * (38 - seed)]
    recipe = Recipe.of(load_config(place / "grouped_recipe.yaml"))
    assert recipe.settings.Arch.entry.name.startswith("picodet")
    data = build_datasets(recipe.settings, ("Train", "Eval"))
    assert {split: len(d) for split, d in data.items()} == {"Train": 4, "Eval": 2}
    assert data["Train"].class_keys == ["cat", "dog"]

    assert main(["check", "-c", str(place / "grouped_recipe.yaml"), "--fix"]) == 0
    said = capsys.readouterr().out
    assert "are in several splits" not in said
    assert by_name(place / "grouped_2_train.json") == train
    assert main(["check", str(root), "--fix"]) == 0  # again: what is there stays
    assert (tmp_path / "photos_lists_2" / "grouped_recipe.yaml").exists()


def test_a_recipe_as_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """VOC's own keys go, all others stay; a recipe without a second split is told so."""
    root = tmp_path / "photos"
    voc(root, {name: i for i, name in enumerate("abcdef")}, None)
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    sections = {}
    for split, names in {"Train": "abcd", "Eval": "ef"}.items():
        file = tmp_path / f"{split}.txt"
        file.write_text("".join(f"JPEGImages/{n}.png Annotations/{n}.xml\n" for n in names))
        own = {"image_root": str(root), "annotation": str(file), "label_file": str(labels)}
        ops = [{"DecodeImage": {}}, {"ResizeImage": {"size": 64}}]
        own |= {"allow_empty": False, "transform_ops": ops}
        sections[split] = {"dataset": {"VOCDataset": own}, "sampler": {"batch_size": 2}}
    tree = {"_base_": "configs/detection/photos.yaml", "Arch": {"class_num": 2}}
    tree["DataLoader"] = {"_replace_": True, **sections}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    assert main(["check", "-c", str(recipe), "--fix"]) == 0
    made = load_config(tmp_path / "grouped_recipe.yaml")
    train = made["DataLoader"]["Train"]["dataset"]
    assert train["name"] == "COCODataset" and "label_file" not in train
    assert train["allow_empty"] is False and train["transform_ops"] == ops
    data = build_datasets(Recipe.of(made).settings, ("Train", "Eval"))
    assert {split: len(d) for split, d in data.items()} == {"Train": 4, "Eval": 2}

    (run := tmp_path / "run").mkdir()
    dumped = load_config(recipe)
    (run / "config.yaml").write_text(yaml.safe_dump(dumped))
    assert main(["check", "-c", str(run), "--fix"]) == 0  # it stands for its recipe
    again = load_config(tmp_path / "grouped_2_recipe.yaml")
    assert again["Arch"] == made["Arch"] and again["DataLoader"].keys() == made["DataLoader"].keys()

    del sections["Eval"]
    tree |= {"DataLoader": {"_replace_": True, **sections}, "Infer": None, "Metric": None}
    recipe.write_text(yaml.safe_dump(tree))
    assert main(["check", "-c", str(recipe), "--fix"]) == 2
    assert "DataLoader.Eval: is missing" in capsys.readouterr().err


def test_a_crowd_stays_a_crowd(tmp_path: Path) -> None:
    root, file = tmp_path / "data", tmp_path / "data" / "boxes.json"
    images, boxes = [], []
    for i in range(6):
        picture(root / f"{i}.png", i)
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": 64, "height": 48})
        own = {"image_id": 10 + i, "category_id": 7, "bbox": [1.5, 2.25, 20.0, 30.5]}
        boxes.append({**own, "id": i, "iscrowd": int(i == 0), "area": 99.5})
    kinds = [{"id": 7, "name": "cell"}]
    content = {"images": images, "annotations": boxes, "categories": kinds}
    file.write_text(json.dumps(content))
    assert main(["check", str(root), "--fix"]) == 0
    place = tmp_path / "data_lists"
    found = by_name(place / "grouped_train.json") | by_name(place / "grouped_eval.json")
    assert sorted(found) == [f"{i}.png" for i in range(6)]
    for name, (its, _, flags, areas) in found.items():
        assert its == [[1.5, 2.25, 21.5, 32.75]] and areas == [99.5]
        assert flags == [CROWD if name == "0.png" else 0]


def test_copies_of_masks_keep_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a split of their own, all four copies are on one side; the numbers keep meaning."""
    root = tmp_path / "photos"
    for i in range(12):
        picture(root / "images" / f"{i:02}.png", max(i, 3))
        mask = np.full((48, 64), 5, np.uint8)
        mask[: 4 + i] = 9
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    assert main(["check", str(root), "--fix"]) == 0
    place = tmp_path / "photos_lists"
    lists = [
        (place / f"grouped_{split}.txt").read_text().splitlines() for split in ("train", "eval")
    ]
    copies = {f"images/{i:02}.png\tmasks/{i:02}.png" for i in range(4)}
    assert len(lists[0]) + len(lists[1]) == 12
    assert sum(bool(copies & set(lines)) for lines in lists) == 1
    recipe = Recipe.of(load_config(place / "grouped_recipe.yaml"))
    train = build_datasets(recipe.settings, ("Train",))["Train"]
    number = int(Path(train.paths[0]).stem)
    mask = train.annotate(0)["mask"]
    assert (mask[: 4 + number] == 1).all() and (mask[4 + number :] == 0).all()


def test_a_layout_that_no_list_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    city = tmp_path / "leftImg8bit"
    for split in ("train", "val"):
        stem = f"{split}/a/a_000000_000019_"
        picture(city / f"{stem}leftImg8bit.png", 1)
        mask = tmp_path / "gtFine" / f"{stem}gtFine_labelTrainIds.png"
        mask.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(mask)
    sections = {
        split: {
            "dataset": {
                "name": "CityscapesDataset",
                "image_root": str(tmp_path),
                "split": name,
                "transform_ops": ["DecodeImage"],
            },
            "sampler": {"batch_size": 2},
        }
        for split, name in {"Train": "train", "Eval": "val"}.items()
    }
    tree = {"Arch": {"name": "deeplabv3p_PPLCNet_x0_25", "class_num": 19}, "DataLoader": sections}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    files = sorted(tmp_path.rglob("*"))
    assert main(["check", "-c", str(file), "--fix"]) == 1
    assert "cannot be written for these annotations" in capsys.readouterr().err
    assert sorted(p for p in tmp_path.rglob("*") if "home" not in p.parts) == files
