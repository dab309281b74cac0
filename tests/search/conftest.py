"""A recipe on a few pictures of three classes, and a meter that needs no clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.search.space import Piece


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 noisy pictures, each of one of three colours, and their lists."""
    folder = tmp_path_factory.mktemp("pictures")
    rng, lines = np.random.default_rng(0), []
    for number in range(48):
        picture = rng.integers(0, 90, (16, 16, 3), np.uint8)
        picture[..., number % 3] += 150
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        lines.append(f"{number}.png {number % 3}\n")
    (folder / "train.txt").write_text("".join(lines[:36]))
    (folder / "val.txt").write_text("".join(lines[36:]))
    return folder


@pytest.fixture
def tree(pictures: Path, tmp_path: Path) -> dict[str, Any]:
    """Its recipe, with a tiny space."""

    def data(name: str, batch: int) -> dict[str, Any]:
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(pictures),
                "cls_label_path": str(pictures / name),
                "transform_ops": [
                    {"DecodeImage": {"to_rgb": True}},
                    {"ResizeImage": {"size": 16}},
                    {"NormalizeImage": {"order": ""}},
                ],
            },
            "sampler": {"name": "DistributedBatchSampler", "batch_size": batch, "shuffle": True},
            "loader": {"num_workers": 0},
        }

    space = {
        "stem": [8],
        "widths": [[8], [8], [8, 16], [16], [16, 24]],
        "depths": [[1], [1], [1], [1], [1]],
        "kernels": [3],
        "attention": "tail",
        "expand": [16],
    }
    return {
        "Global": {"output_dir": str(tmp_path / "out"), "device": "cpu", "cpu_kernels": "off"},
        "Arch": {"name": "PPLCNet", "class_num": 3, "stride_list": [1, 1, 2, 2, 1]},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.05},
        },
        "DataLoader": {"Train": data("train.txt", 12), "Eval": data("val.txt", 12)},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
        "Infer": {"PostProcess": {"name": "Topk", "topk": 1}},
        "Search": {
            "space": {"name": "PPLCNetSpace", **space},
            "supernet_epochs": 2,
            "fill": 0.0,
            "population": 4,
            "generations": 1,
            "measured": 4,
            "finalists": 2,
            "proxy_epochs": 1,
            "rungs": 1,
        },
    }


class Widths:
    """Stands for a meter: a piece takes five microseconds for each channel.

    slow: how many times as long the machine takes, in the next calls; then it is quiet again.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.slow: list[float] = []

    def __call__(self, pieces: Sequence[Piece]) -> dict[str, float]:
        self.asked += [piece.name for piece in pieces]
        slow = self.slow.pop(0) if self.slow else 1.0
        return {p.name: slow * self.ms(p) for p in pieces}

    def ms(self, piece: Piece) -> float:
        layer = piece.build()
        weights = [p for p in layer.parameters() if len(p.shape) == 4]
        return 0.005 * sum(p.shape[0] for p in weights)


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Widths:
    """In the place of the real one, with a table of its own."""
    found = Widths()
    monkeypatch.setattr("ppcls_lite.search.budget.Meter", lambda *_: found)
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    return found
