"""Whole runs of distillation recipes on a dozen small pictures: records, checkpoints, resuming."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.errors import UserError
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import read_state, write_state
from ppcls_lite.recipe import networks
from ppcls_lite.recipe.evaluate import evaluate
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.infer import infer
from ppcls_lite.recipe.train import train
from ppcls_lite.report import pictures

FEATURES = {"return_patterns": ["blocks4"]}
SMALL = {"name": "PPLCNet_x0_25", "class_num": 2, "stride_list": [2, 1, 2, 2, 2]}
LARGE = SMALL | {"name": "PPLCNet_x0_5"}


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "curves", lambda *_: None)
    monkeypatch.setattr(ConfusionMatrix, "report", lambda *_: [])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, half of them dark (class 0), two of them without a label, and a teacher."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        noise = rng.integers(0, 100, (32, 32, 3), np.uint8) + np.uint8(150 * (i % 2))
        (home / f"{i}.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
        lines.append(f"{i}.png {i % 2}\n")
    (home / "train.txt").write_text("".join(lines[:8]))
    (home / "val.txt").write_text("".join(lines[8:]))
    args = {key: value for key, value in LARGE.items() if key != "name"}
    write_state(home / "teacher", create_model(LARGE["name"], **args).state_dict())
    return home


def split(home: Path, name: str, training: bool) -> dict[str, Any]:
    ops = [{"DecodeImage": None}, {"RandFlipImage": {"flip_code": 1}}] if training else []
    ops = ops or [{"DecodeImage": None}]
    return {
        "dataset": {
            "name": "ImageNetDataset",
            "image_root": str(home),
            "cls_label_path": str(home / name),
            "transform_ops": [*ops, {"NormalizeImage": {"order": ""}}],
        },
        "sampler": {"batch_size": 2, "shuffle": training},
        "loader": {"num_workers": 0},
    }


def frozen(home: Path, output: Path, epochs: int = 2) -> dict[str, Any]:
    """A student and a fixed teacher, with EMA, an adapter between features, and dropout."""
    distance = {"key": "blocks4", "weight": 0.1, "channels": [32, 64]}
    return {
        "Global": {
            **{"epochs": epochs, "output_dir": str(output), "device": "cpu"},
            **{"print_batch_step": 1, "image_shape": [3, 32, 32], "update_freq": 2},
            "save_inference_dir": str(output / "inference"),
        },
        "EMA": {"decay": 0.9, "use_warmup": True},
        "Arch": {
            "name": "DistillationModel",
            "class_num": 2,
            "freeze_params_list": [True, False],
            "models": [
                {"Teacher": {**LARGE, **FEATURES, "pretrained": str(home / "teacher")}},
                {"Student": {**SMALL, **FEATURES, "dropout_prob": 0.3}},
            ],
        },
        "Loss": {
            "Train": [
                {"DistillationDMLLoss": {"model_name_pairs": [["Student", "Teacher"]]}},
                {"DistillationDistanceLoss": distance},
            ],
            "Eval": [{"CELoss": {}}],
        },
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.01},
        },
        "DataLoader": {
            "Train": split(home, "train.txt", True),
            "Eval": split(home, "val.txt", False),
        },
        "Metric": {
            "Train": [{"DistillationTopkAcc": {"model_key": "Student", "topk": [1, 2]}}],
            "Eval": [{"DistillationTopkAcc": {"model_key": "Student", "topk": 1}}],
        },
        "Infer": {
            "transforms": [
                {"DecodeImage": None},
                {"ResizeImage": {"size": 32}},
                {"NormalizeImage": {"order": ""}},
            ],
            "PostProcess": {"name": "Topk", "topk": 1},
        },
    }


def by_engine(home: Path, output: Path, epochs: int = 2) -> dict[str, Any]:
    """Like `frozen`, the teacher by Paddle's engine; an epoch ends with a smaller batch."""
    tree = frozen(home, output, epochs)
    tree["Arch"]["teacher_engine"] = "paddle"
    tree["DataLoader"]["Train"]["sampler"] |= {"batch_size": 3, "drop_last": False}
    return tree


def mutual(home: Path, output: Path, epochs: int = 2) -> dict[str, Any]:
    """Two networks that learn from labels and from each other."""
    tree = frozen(home, output, epochs)
    tree["Arch"]["freeze_params_list"] = [False, False]
    tree["Arch"]["models"][0]["Teacher"]["pretrained"] = False
    tree["Loss"]["Train"].insert(
        0, {"DistillationGTCELoss": {"model_names": ["Student", "Teacher"]}}
    )
    return tree


def records(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Where two training states differ in an array."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        return [d for k in first for d in differences(first[k], second[k], f"{place}.{k}")]
    if isinstance(first, np.ndarray):
        return [] if np.array_equal(first, second) else [place]
    return []


@pytest.fixture(scope="module")
def run_dir(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "curves", lambda *_: None)
        patch.setattr(ConfusionMatrix, "report", lambda *_: [])
        return train(frozen(home, tmp_path_factory.mktemp("run"))).run_dir


def test_a_run_records_student_teacher_and_each_term(run_dir: Path):
    steps = records(run_dir, "step")
    assert len(steps) == 4
    wanted = {"top1", "top2", "Teacher_top1", "Teacher_top2", "loss"}
    wanted |= {"DMLLoss_Student_Teacher", "DistanceLoss_l2_blocks4_Student_Teacher"}
    assert all(wanted <= set(step) and np.isfinite(step["loss"]) for step in steps)
    assert steps[-1]["loss"] == pytest.approx(
        sum(value for name, value in steps[-1].items() if "Loss" in name), abs=1e-5
    )
    (teacher,) = records(run_dir, "reference")  # once in the run, at its first evaluation
    assert teacher["network"] == "Teacher" and teacher["epoch"] == 1
    assert 0 <= teacher["top1"] <= 1 and teacher["CELoss"] > 0
    assert len(records(run_dir, "eval")) == 2
    log = (run_dir / "train.log").read_text(encoding="utf-8")
    assert log.count("[Eval][Teacher, which does not change]") == 1
    assert "Teacher PPLCNet_x0_5 (frozen), Student PPLCNet_x0_25 (trained, ships)" in log


def test_the_student_alone_is_the_model(run_dir: Path, home: Path, tmp_path: Path):
    args = {key: value for key, value in SMALL.items() if key != "name"}
    plain = create_model(SMALL["name"], pretrained=str(run_dir / "best_model"), **args)
    keys = set(plain.state_dict())
    for name in ("latest", "latest_raw"):
        assert set(read_state(run_dir / name)) == keys
    state = checkpoint.load(run_dir / "latest")
    assert set(state["model"]) == set(state["ema"]["weights"]) == keys
    assert list(state["companions"]) == ["loss"]
    (names, adapter) = zip(*sorted(state["companions"]["loss"].items()))
    assert [name.rpartition(".")[2] for name in names] == ["bias", "weight"]
    assert adapter[1].shape == (64, 32, 1, 1)
    tree = frozen(home, tmp_path)
    tree["Global"]["pretrained_model"] = str(run_dir / "latest")
    tree["Arch"]["models"][0]["Teacher"]["pretrained"] = "is not needed any more"
    last = records(run_dir, "eval")[-1]
    scores = evaluate(tree)
    assert scores["CELoss"] == pytest.approx(last["CELoss_ema"], rel=1e-5)
    report = export(tree)
    assert report.what == "probabilities of 2 classes"
    tree["Infer"]["infer_imgs"] = str(home / "0.png")
    assert infer(tree) == 0
    assert "PPLCNet_x0_25" in (report.folder / "inference.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [frozen, mutual, by_engine])
def test_a_resumed_run_ends_like_one_in_one_go(make: Any, home: Path, tmp_path: Path):
    whole = train(make(home, tmp_path / "whole")).run_dir
    tree = make(home, tmp_path / "resumed")
    tree["Global"]["checkpoints"] = str(whole / "epoch_1")
    resumed = train(tree).run_dir
    states = [checkpoint.load(folder / "latest") for folder in (whole, resumed)]
    first = checkpoint.load(whole / "epoch_1")
    for part in ("model", "companions", "ema", "optimizer"):
        assert differences(*[state[part] for state in states], part) == []
        assert differences(first[part], states[0][part], part)  # the second epoch did something
    assert states[0]["history"] == states[1]["history"]
    assert len(records(resumed, "reference")) == 0  # the teacher had been scored
    if make is mutual:
        assert set(states[0]["companions"]) == {"Teacher", "loss"}
        slots = states[0]["optimizer"]["slots"]["velocity"]
        assert {name.split(".")[0] for name in slots} == {"model", "Teacher", "loss"}


def test_a_checkpoint_of_other_networks_is_refused(run_dir: Path, home: Path, tmp_path: Path):
    tree = mutual(home, tmp_path)
    tree["Global"]["checkpoints"] = str(run_dir / "latest")
    with pytest.raises(UserError, match="was written with loss learning beside the network"):
        train(tree)
    tree = frozen(home, tmp_path)
    tree["Global"]["checkpoints"] = str(run_dir / "latest")
    del tree["Loss"]["Train"][1]
    with pytest.raises(UserError, match="this run has nothing"):
        train(tree)


def test_the_teacher_of_a_run_is_the_file_it_was(home: Path, tmp_path: Path, monkeypatch: Any):
    """Bit by bit, after training with EMA and evaluations in between."""
    tasks = []
    build = networks.build_task
    monkeypatch.setattr(
        "ppcls_lite.recipe.compose.build_task", lambda *a: tasks.append(build(*a)) or tasks[0]
    )
    train(frozen(home, tmp_path))
    (teacher,) = tasks[0].frozen.values()
    assert differences(read_state(home / "teacher"), checkpoint.arrays(teacher)) == []


def test_images_without_labels_train_and_are_not_scored(home: Path, tmp_path: Path):
    """The labelled half is scored as it is without the other half, whose labels are -1."""
    tree = frozen(home, tmp_path, epochs=1)
    tree["Global"]["eval_during_train"] = False
    dataset = tree["DataLoader"]["Train"]["dataset"]
    dataset |= {"name": "UnlabeledDataset", "unlabeled_root": str(home)}
    steps = records(train(copy.deepcopy(tree)).run_dir, "step")
    assert len(steps) == 5  # 8 labelled and all 12 as unlabelled, 4 an update
    assert all(np.isfinite(step["loss"]) for step in steps)
    labelled = steps[-1]["Teacher_top1"] * 8  # of 8 images, not of 20
    assert labelled == pytest.approx(round(labelled))
