"""A recipe that learns in a second: dark photographs against bright ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 images, train.txt and val.txt."""
    root = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for i in range(24):
        noise = rng.integers(0, 128, (32, 32, 3))
        cv2.imwrite(str(root / f"{i}.png"), (noise + 127 * (i % 2)).astype(np.uint8))
    (root / "train.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(16)))
    (root / "val.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(16, 24)))
    return root


@pytest.fixture
def shades_recipe(shades: Path, tmp_path: Path) -> dict[str, Any]:
    """Two epochs of two updates each on `shades`, into the test's own folder."""

    def split(name: str) -> dict[str, Any]:
        ops = [{"DecodeImage": {}}, {"ResizeImage": {"size": 32}}]
        ops += [{"NormalizeImage": {"order": ""}}, {"ToCHWImage": {}}]
        files = {"image_root": str(shades), "cls_label_path": str(shades / f"{name}.txt")}
        return {
            "dataset": {"name": "ImageNetDataset", **files, "transform_ops": ops},
            "sampler": {"name": "DistributedBatchSampler", "batch_size": 8, "shuffle": True},
            "loader": {"num_workers": 0},
        }

    return {
        "Global": {"epochs": 2, "device": "cpu", "eval_engine": "dygraph"}
        | {"output_dir": str(tmp_path / "output")},
        "Arch": {"name": "PPLCNet_x0_25", "class_num": 2},
        "Loss": {"Train": [{"CELoss": {}}]},
        "Optimizer": {"name": "Momentum", "lr": {"name": "Cosine", "learning_rate": 0.05}},
        "DataLoader": {"Train": split("train"), "Eval": split("val")},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }
