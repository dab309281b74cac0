"""What a recipe with `Arch.name: DistillationModel` may say, and what is said about mistakes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import read_state, write_state
from ppcls_lite.recipe import networks

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "distillation"
ARCH = {
    "name": "DistillationModel",
    "class_num": 3,
    "pretrained_list": None,
    "freeze_params_list": [True, False],
    "infer_model_name": "Student",
    "models": [
        {"Teacher": {"name": "PPLCNet_x0_25", "pretrained": "teacher"}},
        {"Student": {"name": "PPLCNet_x0_25", "pretrained": False, "dropout_prob": 0.0}},
    ],
}


def tree_of(**changes: Any) -> dict[str, Any]:
    arch = copy.deepcopy(ARCH) | changes
    return {"Arch": {key: value for key, value in arch.items() if value != "absent"}}


def mistake(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check(tree)
    return str(caught.value)


def models(teacher: dict[str, Any] | None = None, student: dict[str, Any] | None = None) -> list:
    both = copy.deepcopy(ARCH["models"])
    both[0]["Teacher"] |= teacher or {}
    both[1]["Student"] |= student or {}
    return both


def test_the_networks_of_a_recipe():
    settings = check(tree_of())
    teacher, student = networks.distillation_of(settings).members
    assert (teacher.frozen, teacher.pretrained, teacher.path) == (
        *(True, "teacher"),
        "Arch.models.0.Teacher",
    )
    assert not student.frozen and networks.shipped(settings).name == "Student"
    assert student.node.get("class_num") == teacher.node.get("class_num") == 3
    model = networks.build_model(settings)
    assert model.class_num == 3 and model.dropout.p == 0.0


def test_pretrained_list_goes_before_pretrained():
    arch = tree_of(pretrained_list=["other", None], models=models(student={"pretrained": True}))
    teacher, student = networks.distillation_of(check(arch)).members
    assert (teacher.pretrained, student.pretrained) == ("other", True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"models": models({"scal": 1})},
            "Arch.models.0.Teacher.scal: PPLCNet_x0_25 has no argument 'scal'",
        ),
        ({"models": models({"name": "PPLCNet_x025"})}, "Arch.models.0.Teacher: there is no model"),
        ({"models": models(student={"dropout_prob": 2})}, "Arch.models.1.Student.dropout_prob: ex"),
        ({"models": models(student={"return_pattern": []})}, "did you mean 'return_patterns'?"),
        ({"models": models(student={"class_num": 4})}, "class_num is 3, but Arch.models.1.Student"),
        ({"models": "absent"}, "Arch.models: is missing"),
        ({"models": {"Teacher": {}}}, "Arch.models: expected a list"),
        ({"models": models()[1:]}, "models: expected a teacher and a student at least"),
        ({"models": [models()[1]] * 2}, "models.1: 'Student' is given twice"),
        ({"models": [models()[0] | models()[1]]}, "models.0: expected one network"),
        ({"models": [{"logits": {"name": "PPLCNet_x0_25"}}]}, "'logits' is not a name"),
        ({"freeze_params_list": [True]}, "freeze_params_list: expected one value for each of the"),
        ({"freeze_params_list": [True, True]}, "freeze_params_list: Student (infer_model_name) is"),
        ({"freeze_params_list": ["yes", False]}, "Arch.freeze_params_list.0: expected true or"),
        ({"pretrained_list": ["a"]}, "pretrained_list: expected one value for each of the 2"),
        ({"infer_model_name": "Studnt"}, "infer_model_name: there is no network 'Studnt'"),
        ({"pretrained": True}, "Arch.pretrained: each network of a DistillationModel has its own"),
        ({"infer_model": "Student"}, "did you mean 'infer_model_name'?"),
    ],
)
def test_a_mistake_is_named_with_its_path(changes: dict[str, Any], says: str):
    assert says in mistake(tree_of(**changes))


@pytest.mark.parametrize(
    ("section", "node", "says"),
    [
        (
            *(
                "Loss",
                {"Train": [{"DistillationDMLLoss": {"model_name_pairs": [["S", "Teacher"]]}}]},
            ),
            "Loss.Train.0.DistillationDMLLoss.model_name_pairs: there is no network 'S'; expected",
        ),
        (
            "Metric",
            {"Train": [{"DistillationTopkAcc": {"model_key": "Teachr"}}]},
            "model_key: there is no network 'Teachr'; expected Teacher or Student",
        ),
        (
            "Metric",
            {"Eval": [{"DistillationTopkAcc": {"model_key": "Teacher"}}]},
            "in an evaluation only the student runs; expected Student",
        ),
    ],
)
def test_losses_and_metrics_name_networks_that_are_there(section: str, node: dict, says: str):
    if section == "Loss":
        node = {"Train": node["Train"], "Eval": [{"CELoss": {}}]}
    assert says in mistake(tree_of() | {section: node})


def test_it_is_no_network_of_the_python_api():
    with pytest.raises(UserError, match="stands for the several networks of a recipe"):
        create_model("DistillationModel")
    with pytest.raises(UserError, match="needs the argument 'path'"):
        create_model("InferenceModel")


def built(tree: dict[str, Any]) -> Any:
    return networks.build_task(check(tree), CombinedLoss([CELoss()]), World())


def test_a_frozen_teacher_needs_weights():
    with pytest.raises(UserError) as caught:
        built(tree_of(models=models({"pretrained": False})))
    assert "Arch.models.0.Teacher: this teacher is frozen and has no weights" in str(caught.value)
    assert "-o Arch.models.0.Teacher.pretrained=PATH" in str(caught.value)


def test_official_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", offline)
    with pytest.raises(UserError) as caught:
        built(tree_of(models=models({"pretrained": True})))
    assert str(caught.value).startswith("Arch.models.0.Teacher.pretrained: the official weights")
    assert "no network" in str(caught.value)
    with pytest.raises(UserError, match="could not be downloaded"):
        built(tree_of(models=models({"pretrained": "https://example.org/t.pdparams"})))


def test_a_teacher_of_other_classes_is_refused_and_a_student_gets_a_new_head(tmp_path: Path):
    other = write_state(tmp_path / "other", create_model("PPLCNet_x0_25", 5).state_dict())
    teacher = write_state(tmp_path / "teacher", create_model("PPLCNet_x0_25", 3).state_dict())
    with pytest.raises(UserError, match="has another classifier"):
        built(tree_of(models=models({"pretrained": str(other)})))
    both = models({"pretrained": str(teacher)}, {"pretrained": str(other)})
    task = built(tree_of(models=both))
    own = task.model.state_dict()
    same = [k for k, v in read_state(other).items() if np.array_equal(v, own[k].numpy())]
    assert {key.split(".")[0] for key in set(own) - set(same)} == {"fc"}


def test_a_file_with_all_networks_as_paddleclas_saves_it(tmp_path: Path):
    nets = {name: create_model("PPLCNet_x0_25", 3) for name in ("Teacher", "Student")}
    state = {f"{n}.{k}": v for n, net in nets.items() for k, v in net.state_dict().items()}
    file = str(write_state(tmp_path / "all", state))
    task = built(tree_of(models=models({"pretrained": file}, {"pretrained": file})))
    for name, network in {"Teacher": task.frozen["Teacher"], "Student": task.model}.items():
        wanted = nets[name].fc.weight.numpy()
        assert np.array_equal(network.fc.weight.numpy(), wanted), name
    tree = tree_of() | {"Global": {"pretrained_model": file}}
    model = networks.build_model(check(tree))
    assert np.array_equal(model.fc.weight.numpy(), nets["Student"].fc.weight.numpy())


def test_our_recipes_are_checked_and_say_what_ships():
    for path in sorted(CONFIGS.glob("PPLCNet_*.yaml")):
        student = networks.shipped(check(load_config(path)))
        scale = "_".join(path.stem.split("_")[:3])
        assert student.node.entry.name == scale, path
