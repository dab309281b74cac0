"""`ppcls-lite check`: what is in the data of a recipe, and what is wrong with them."""

from __future__ import annotations

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
