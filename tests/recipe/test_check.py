"""`ppcls-lite check`: what is in the data of a recipe, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_lite.cli import main


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    for split in ("train", "val"):
        for i in range(2):
            for folder, shape in {"images": (8, 8, 3), "masks": (8, 8)}.items():
                path = tmp_path / split / folder / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full(shape, i + 7 * (split == "val") * (folder == "images"), np.uint8)
                Image.fromarray(pixels).save(path)
    sections = {
        name: {
            "dataset": {
                "name": "SegDataset",
                "image_root": str(tmp_path / split),
                "transform_ops": ["DecodeImage"],
            },
            "sampler": {"batch_size": 2},
        }
        for name, split in {"Train": "train", "Eval": "val"}.items()
    }
    tree = {"Arch": {"name": "deeplabv3p_PPLCNet_x0_25", "class_num": 2}, "DataLoader": sections}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_good_data(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "val: 2 images, 2 classes\n  the 2 masks (.png): values 0, 1;" in said
    assert "no mistakes found" in said


def test_mistakes_of_all_splits(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(recipe.parent / "val" / "masks" / "1.png")
    (recipe.parent / "train" / "masks" / "0.png").unlink()
    assert main(["check", "-c", str(recipe)]) == 1
    said = capsys.readouterr().out
    assert "mistakes, which stop a training (2):" in said
    assert "1 of 2 images have no mask" in said and "has the value 9 (64 pixels)" in said
    assert "no mistakes found" not in said
    assert "warnings (" in said  # class 0 has no pixel any more


def test_a_recipe_without_data(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(recipe), "-o", "DataLoader=null"]) == 2
    assert "there are no data to check" in capsys.readouterr().err


def photos(root: Path) -> Path:
    """Two classes of eight pictures; one of them again in another size, and one broken file."""
    for i in range(16):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC)
        path = root / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        if i == 3:
            image.resize((60, 60)).save(root / "dog" / "copy.png")
    (root / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (root / "cat" / "notes.txt").write_text("not an image", encoding="utf-8")
    return root


def test_a_folder_of_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "photos")
    out = tmp_path / "out"
    assert main(["check", str(root), "--output", str(out), "--fix"]) == 1
    said = capsys.readouterr().out
    assert "cat            9      50.0%" in said
    assert "always answering cat is right for 50.0%" in said
    assert f"{root}/dog/3.png = {root}/dog/copy.png (same picture)" in said
    assert f"{root}/cat/broken.jpg: " in said and "1 files in the sub-folders" in said
    kept = json.loads((out / "check.json").read_text(encoding="utf-8"))
    assert {image["kind"] for image in kept["images"]} == {"copies", "unreadable"}
    assert Image.open(out / "samples.png").size[1] > 190  # two rows
    lists = {s: (root / f"{s}_list.txt").read_text("utf-8").splitlines() for s in ("train", "val")}
    assert sum(map(len, lists.values())) == 17
    pair = {"dog/3.png 1", "dog/copy.png 1"}
    assert [pair <= {*lines} for lines in lists.values()].count(True) == 1
    before = (root / "train_list.txt").read_bytes()
    assert main(["check", str(root), "--fix"]) == 0  # it has lists now, without faults
    assert (root / "train_list.txt").read_bytes() == before
    assert (root / "train_list_2.txt").is_file()
    with pytest.raises(SystemExit):  # before the images are looked at
        main(["check", str(root), "--output", str(out)])
    assert "is not empty" in capsys.readouterr().err


def test_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path)
    (root / "cat" / "broken.jpg").unlink()
    assert main(["check", str(root)]) == 0
    assert main(["check", str(root), "--strict"]) == 1
    (root / "cat" / "notes.txt").unlink()
    (root / "dog" / "copy.png").unlink()
    assert main(["check", str(root), "--strict"]) == 0
    assert "no mistakes found" in capsys.readouterr().out


def test_the_lists_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path)
    (root / "a_train.txt").write_text("cat/0.png 0\ndog/3.png 1\n", encoding="utf-8")
    (root / "a_val.txt").write_text("cat/2.png 0\ndog/copy.png 1\n", encoding="utf-8")
    sections = {
        split: {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(root),
                "cls_label_path": str(root / f"a_{name}.txt"),
                "transform_ops": ["DecodeImage"],
            },
            "sampler": {"batch_size": 2},
        }
        for split, name in (("Train", "train"), ("Eval", "val"))
    }
    tree = {"Arch": {"name": "PPLCNet_x0_25", "class_num": 2}, "DataLoader": sections}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["check", "-c", str(tmp_path / "recipe.yaml"), "--fix", "--strict"]) == 1
    said = capsys.readouterr().out
    assert "dog/3.png [Train]" in said and "dog/copy.png [Eval] (same picture)" in said
    assert (root / "val_list.txt").read_text(encoding="utf-8") == "cat/2.png 0\n"
    taught = (root / "train_list.txt").read_text(encoding="utf-8").splitlines()
    assert taught == ["cat/0.png 0", "dog/3.png 1", "dog/copy.png 1"]


def test_folders_of_masks_and_mistakes_of_the_command(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = recipe.parent / "train"
    assert main(["check", str(train)]) == 0
    said = capsys.readouterr().out
    assert "images/a.jpg with masks/a.png" in said and "wrote" not in said
    assert sorted(path.name for path in train.iterdir()) == ["images", "masks"]
    assert main(["check"]) == 1 and main(["check", str(train), "-c", str(recipe)]) == 1
    assert "and not both" in capsys.readouterr().err
    assert main(["check", str(recipe.parent / "nowhere")]) == 1
    assert "there is no image folder" in capsys.readouterr().err
