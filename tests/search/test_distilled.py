"""The student of a distillation is searched by the recipe that trains it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.config.check import build
from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.search.judge import SupernetJudge
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.run import search

SETTING = Setting("paddle", "fp32", 1)


@pytest.fixture
def distilled(tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny recipe, taught by a frozen network."""
    teacher = tmp_path / "teacher.pdparams"
    paddle.seed(1)
    network = create_model("MobileNetV1_x0_25", class_num=3)
    paddle.save(network.state_dict(), str(teacher))
    student = {key: value for key, value in tree["Arch"].items() if key != "class_num"}
    tree["Arch"] = {
        "name": "DistillationModel",
        "class_num": 3,
        "freeze_params_list": [True, False],
        "models": [
            {"Teacher": {"name": "MobileNetV1_x0_25", "pretrained": str(teacher)}},
            {"Student": student | {"pretrained": str(tmp_path / "of_another_network.pdparams")}},
        ],
    }
    pairs = [["Student", "Teacher"]]
    tree["Loss"]["Train"] = [{"DistillationDMLLoss": {"weight": 1.0, "model_name_pairs": pairs}}]
    tree["Metric"] = {"Eval": [{"DistillationTopkAcc": {"model_key": "Student", "topk": [1]}}]}
    return tree


def judge_of(tree: dict[str, Any], folder: Path) -> SupernetJudge:
    space = build(tree["Search"]["space"], "space")
    networks = Networks(Recipe.of(tree), space, (3, 16, 16))
    return SupernetJudge(Recipe.of(tree), networks, World(), folder)


def test_a_search_for_a_student(distilled: dict[str, Any], tmp_path: Path, meter: Any) -> None:
    """By a supernet that the teacher teaches, and trainings that are those of the recipe."""
    distilled["Global"]["run_name"] = "mine"
    folder = tmp_path / "found"
    result = search(copy.deepcopy(distilled), 1.0, SETTING, [0], folder)
    best = result.finalists[0]
    assert 0 <= best.rungs[0] <= 1 and best.ms <= 1.03
    found = yaml.safe_load((folder / "recipe.yaml").read_text())
    teacher, student = found["Arch"]["models"]
    assert teacher == distilled["Arch"]["models"][0]
    arch = student["Student"]
    assert arch["name"] == "PPLCNet" and Path(arch["pretrained"]).is_file()
    assert arch["widths"] == [8, 8, best.candidate["width4"], 16, best.candidate["width6"]]
    assert found["Loss"] == distilled["Loss"] and found["Metric"] == distilled["Metric"]
    own = {key: value for key, value in arch.items() if key not in ("name", "pretrained")}
    network = create_model("PPLCNet", **own)
    assert set(paddle.load(arch["pretrained"])) == set(network.state_dict())  # no teacher's
    log = next((folder / "networks").glob("*/*/log.txt")).read_text()
    assert "networks: Teacher MobileNetV1_x0_25 (frozen), Student PPLCNet" in log


def test_the_teacher_teaches_the_supernet(distilled: dict[str, Any], tmp_path: Path) -> None:
    judge = judge_of(distilled, tmp_path)
    batch = next(iter(judge.loader.epoch(1)))
    teacher = judge.task.frozen["Teacher"]
    outputs = judge.supernet.whole(batch["image"])
    with paddle.no_grad():
        answers = teacher(batch["image"])
    both = {"Student": outputs, "Teacher": answers, "logits": outputs}
    expected = judge.loss(both, batch)["loss"]
    assert float(judge._loss_of(outputs, batch)) == pytest.approx(float(expected), rel=1e-6)
    before = {name: t.numpy().copy() for name, t in teacher.state_dict().items()}
    judge.train(1)
    assert all((before[name] == t.numpy()).all() for name, t in teacher.state_dict().items())
    assert 0 <= judge.score([judge.networks.space.smallest()])[0] <= 1
    judge.close()


def test_weights_of_a_list_are_not_those_of_a_candidate(distilled: dict[str, Any]) -> None:
    teacher = distilled["Arch"]["models"][0]["Teacher"].pop("pretrained")
    distilled["Arch"]["pretrained_list"] = [teacher, "of_another_network"]
    space = build(distilled["Search"]["space"], "space")
    networks = Networks(Recipe.of(distilled), space, (3, 16, 16))
    made = networks.recipe(distilled, space.smallest(), "mine.pdparams")
    assert made["Arch"]["pretrained_list"] == [teacher, None]
    assert made["Arch"]["models"][1]["Student"]["pretrained"] == "mine.pdparams"
    assert distilled["Arch"]["pretrained_list"][1] == "of_another_network"


def test_networks_that_learn_together(
    distilled: dict[str, Any], tmp_path: Path, meter: Any
) -> None:
    """Cannot be a supernet's: that is refused before any work, or planned without one."""
    distilled["Arch"]["freeze_params_list"] = [False, False]
    with pytest.raises(UserError, match=r"Teacher learns together .* Search.supernet_epochs=0"):
        search(copy.deepcopy(distilled), 1.0, SETTING, [0], tmp_path / "found")
    assert not meter.asked
    judge = judge_of(distilled, tmp_path)
    assert judge.seconds_per_epoch() == float("inf")
    assert judge.seconds_alone(judge.networks.space.smallest()) > 0
    judge.close()


def test_mistakes_name_the_student(distilled: dict[str, Any], tmp_path: Path) -> None:
    wrong = copy.deepcopy(distilled)
    wrong["Arch"]["models"][1]["Student"] = {"name": "MobileNetV3_small_x0_35"}
    with pytest.raises(ConfigError, match=r"Arch.models.1.Student.name: is MobileNetV3_small"):
        search(wrong, 1.0, SETTING, [0], tmp_path / "a")
    distilled["Arch"]["models"][0]["Teacher"].pop("pretrained")
    with pytest.raises(UserError, match=r"Arch.models.0.Teacher: this teacher .* has no weights"):
        search(distilled, 1.0, SETTING, [0], tmp_path / "b")
