"""What becomes of a run folder when the command is given again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite.cli import main
from ppcls_lite.engine import checkpoint, run_folder
from ppcls_lite.system import safe_pickle

NAME = "PPLCNet_x0_25"
Train = Callable[..., int]


def recipe(root: Path) -> dict:
    def split(name: str, batch: int) -> dict:
        ops = [
            {"DecodeImage": {}},
            {"ResizeImage": {"size": 32}},
            {"NormalizeImage": {"order": ""}},
        ]
        files = {"image_root": str(root), "cls_label_path": str(root / f"{name}.txt")}
        return {
            "dataset": {"name": "ImageNetDataset", **files, "transform_ops": ops},
            "sampler": {"name": "DistributedBatchSampler", "batch_size": batch},
            "loader": {"num_workers": 0},
        }

    return {
        "Global": {"epochs": 1, "device": "cpu", "output_dir": str(root / "output")},
        "Arch": {"name": NAME, "class_num": 2},
        "Loss": {"Train": [{"CELoss": {}}]},
        "Optimizer": {"name": "Momentum", "lr": {"name": "Cosine", "learning_rate": 0.05}},
        "DataLoader": {"Train": split("train", 4), "Eval": split("val", 4)},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for i in range(12):
        cv2.imwrite(str(root / f"{i}.png"), rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    (root / "train.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(8)))
    (root / "val.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(8, 12)))
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe(root)))
    assert main(["train", "-c", str(root / "recipe.yaml")]) == 0
    return root


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A run and its data, at another place than they were made."""
    shutil.copytree(trained, tmp_path / "home")
    (tmp_path / "home" / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path / "home")))
    return tmp_path / "home"


@pytest.fixture
def train(home: Path) -> Train:
    def run(*overrides: str) -> int:
        options = [item for override in overrides for item in ("-o", override)]
        return main(["train", "-c", str(home / "recipe.yaml"), *options])

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def log(home: Path) -> str:
    return (home / "output" / NAME / "train.log").read_text(encoding="utf-8")


def test_an_earlier_run_is_kept_beside_the_new_one(home: Path, train: Train) -> None:
    before = content(home / "output" / NAME)
    assert train("Global.seed=7") == 0
    assert content(home / "output" / f"{NAME}.run-1") == before
    weights = [home / "output" / d / "best_model.pdparams" for d in (NAME, f"{NAME}.run-1")]
    new, old = (safe_pickle.load(file)["fc.weight"] for file in weights)
    assert not np.array_equal(new, old)
    assert f"The earlier run in {home / 'output' / NAME} is now in " in log(home)
    assert "seed: 7" in (home / "output" / NAME / "config.yaml").read_text()

    for file in (home / "output" / f"{NAME}.run-1").glob("latest.*"):
        shutil.copy(file, home / "output" / NAME)  # of another run
    assert train("Global.seed=7", "Global.checkpoints=auto", "Global.epochs=2") == 0
    assert "what differs:\n- " in log(home) and "\n- Global.seed: not stated -> 7\n" in log(home)


def test_a_refused_start_changes_nothing(
    home: Path, train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, before = home / "output" / NAME, content(home / "output")
    resume = f"Global.checkpoints={run_dir / 'latest'}"

    def refused(message: str, *overrides: str) -> None:
        assert train(*overrides) == 1
        assert message in capsys.readouterr().err
        found = content(home / "output")
        found.pop(f".{NAME}.lock")
        assert found == {k: v for k, v in before.items() if k != f".{NAME}.lock"}

    refused("and Global.if_exists is error", "Global.if_exists=error")
    refused("2 updates per epoch, this run has 4", resume, train_batch(2), "Global.epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "try_lock", lambda file: False)
        patch.setattr(run_folder, "PATIENCE", 0.0)
        refused("belongs to a training that is running: process ", "Global.epochs=2")
    labels = "".join(f"{i}.png {(i + 1) % 2}\n" for i in range(8))
    (home / "train.txt").write_text(labels)
    refused("names: labels of DataLoader.Train. ", resume, "Global.epochs=2")
    (home / "8.png").write_bytes(b"no image")  # of the evaluation: seen before the first step
    refused("8.png", "Global.epochs=2")
    (home / "3.png").unlink()
    refused("3.png", "Global.epochs=2")


def train_batch(size: int) -> str:
    return f"DataLoader.Train.sampler.batch_size={size}"


def test_a_resume_elsewhere_keeps_what_is_there(home: Path, train: Train) -> None:
    before = content(home / "output" / NAME)
    shutil.copytree(home / "output" / NAME, home / "other")
    assert train(f"Global.checkpoints={home / 'other' / 'latest'}", "Global.epochs=2") == 0
    assert content(home / "output" / f"{NAME}.run-1") == before
    assert checkpoint.load(home / "output" / NAME / "latest")["epoch"] == 3


def test_a_resume_says_what_has_changed(home: Path, train: Train) -> None:
    (home / "train.txt").write_text("".join(f"{i}.png {i // 4}\n" for i in range(8)))
    resume = ("Global.checkpoints=auto", "Global.epochs=2", "Global.resume_changed_data=true")
    assert train(*resume, "Optimizer.lr.learning_rate=0.01") == 0
    for line in (
        "- Global.epochs: 1 -> 2",
        "- Optimizer.lr.learning_rate: 0.05 -> 0.01",
        "- labels of DataLoader.Train",
    ):
        assert f"\n{line}\n" in log(home)
    assert [p.name for p in (home / "output").iterdir() if p.is_dir()] == [NAME]
    config = (home / "output" / NAME / "config.yaml").read_bytes()
    assert train("Global.checkpoints=auto", "Global.resume_changed_data=true") == 0
    assert "after epoch 2 of 1" in log(home) and "There is nothing to do" in log(home)
    assert (home / "output" / NAME / "config.yaml").read_bytes() == config


def test_a_damaged_best_model_is_not_evaluated(
    home: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    best = home / "output" / NAME / "best_model"
    command = ["eval", "-c", str(home / "recipe.yaml"), "-o", f"Global.pretrained_model={best}"]
    assert main(command) == 0
    data = bytearray(best.with_suffix(".pdparams").read_bytes())
    data[len(data) // 2] ^= 1
    best.with_suffix(".pdparams").write_bytes(data)
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "best_model.pdparams has the right size, but its checksum" in message
    assert "remove the manifest.json beside it" in message
    best.with_suffix(".manifest.json").unlink()
    assert main(command) == 0
    assert "has lost its best_model.manifest.json: it is read unchecked" in log(home)
