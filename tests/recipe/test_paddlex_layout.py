"""A data set as PaddleX lays it out, from the name of its folder to named answers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite.cli import main

NAMES = ["red", "dark green", "blue"]
RECIPE = """
_base_: quickstart/digits.yaml
Global: {{epochs: 1, device: cpu, output_dir: {root}/out, save_inference_dir: {root}/inference}}
Arch: {{class_num: 1000}}
DataLoader:
  Train: {{sampler: {{batch_size: 4}}, loader: {{num_workers: 0}}}}
  Eval: {{sampler: {{batch_size: 4}}, loader: {{num_workers: 0}}}}
"""


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """`train.txt`, `val.txt` and `label.txt` beside a folder of images."""
    folder = tmp_path / "flowers"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 6)):
        lines = []
        for number in range(count):
            image = rng.integers(0, 90, (40, 40, 3), np.uint8)
            image[..., 2 - number % 3] += 150
            name = f"images/{split} {number}.jpg"
            cv2.imwrite(str(folder / name), image)
            lines.append(f"{name} {number % 3}\n")
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    labels = "".join(f"{number} {name}\n" for number, name in enumerate(NAMES))
    (folder / "label.txt").write_text(labels, encoding="utf-8")
    return folder


def test_the_name_of_the_folder_is_enough(flowers: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(root=tmp_path), encoding="utf-8")
    given = ["-c", str(recipe), "-o", f"Global.dataset_dir={flowers}"]
    assert main(["train", *given]) == 0
    weights = f"Global.pretrained_model={tmp_path}/out/PPLCNet_x0_25/latest"
    assert main(["eval", *given, "-o", weights]) == 0
    name = "Global.pdx_model_name=PP-LCNet_x0_25_textline_ori"
    assert main(["export", *given, "-o", weights, "-o", name]) == 0
    about = yaml.safe_load((tmp_path / "inference/inference.yml").read_text(encoding="utf-8"))
    assert about["Global"]["model_name"] == "PP-LCNet_x0_25_textline_ori"
    assert about["PostProcess"]["Topk"]["label_list"] == NAMES
    run = yaml.safe_load((tmp_path / "out/PPLCNet_x0_25/config.yaml").read_text(encoding="utf-8"))
    assert run["Arch"]["class_num"] == 3
    found = tmp_path / "found.jsonl"
    paths = ["--input", str(flowers / "val.txt"), "--output", str(found)]
    assert main(["predict", "--model", str(tmp_path / "inference"), *paths, "--topk", "3"]) == 0
    results = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    assert len(results) == 6 and all(sorted(r["label_names"]) == sorted(NAMES) for r in results)
