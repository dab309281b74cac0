"""The check of a recipe: every mistake at once, with its path and a suggestion."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import typing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from paddle.nn import Layer

from ppcls_lite.config import registry
from ppcls_lite.config.check import CONTEXT, build, check
from ppcls_lite.config.file import load_config
from ppcls_lite.config.registry import REQUIRED
from ppcls_lite.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if "_base_" not in p.parts)
OFFICIAL = sorted((ROOT / "tests" / "fixtures" / "official").glob("*.yaml"))


def recipe(*overrides: str) -> dict[str, Any]:
    return load_config(ROOT / "configs" / "PPLCNet_x0_5.yaml", overrides)


def mistakes(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(recipe(*overrides))
    return str(caught.value)


@pytest.mark.parametrize("path", [*CONFIGS, *OFFICIAL], ids=lambda p: p.stem)
def test_every_recipe_passes(path: Path) -> None:
    settings = check(load_config(path))
    assert settings.Arch.entry.kind == "model"
    assert settings.Loss is not None and settings.Loss.Train


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_recipe_opens_with_its_command(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("_base_:")[0]
    assert "tools/train.py -c " + path.relative_to(ROOT).as_posix() in head


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("Arch.scal=1", "Arch.scal: PPLCNet_x0_5 has no argument 'scal'"),
        ("Arch.dropout=1", "did you mean 'dropout_prob'?"),
        ("Arch.name=PPLCNet_x05", "Arch: there is no model 'PPLCNet_x05'; did you mean"),
        ("Arch.name=TopkAcc", "there is no model 'TopkAcc'; it is a metric"),
        ("Arch.name=RecModel", "retrieval and hashing are outside this toolkit"),
        ("Arch.name=DistillationModel", "Arch.models: is missing; DistillationModel needs a list"),
        ("Arch.dropout_prob=1.5", "Arch.dropout_prob: expected a number between 0 and 1"),
        ("Arch.class_num=ten", "Arch.class_num: expected an integer at least 0"),
        ("Global.epoch=3", "Global.epoch: Global has no key 'epoch'; did you mean 'epochs'?"),
        ("Global.epochs=0", "Global.epochs: expected an integer at least 1, found 0"),
        ("Global.epochs=many", "Global.epochs: expected an integer at least 1, found 'many'"),
        ("Global.device=gpuu", "Global.device: expected 'auto' or 'cpu' or 'gpu', found 'gpuu'"),
        ("Global.eval_during_train=1", "expected true or false, found 1"),
        ("Global.use_dali=true", "Global.use_dali: NVIDIA DALI pipelines are not supported"),
        ("Global.eval_mode=retrieval", "Global.eval_mode: retrieval and hashing are outside"),
        ("Globall.epochs=3", "Globall: a recipe has no key 'Globall'; did you mean 'Global'?"),
        ("Loss.Train.0.CELoss.epsilonn=0.1", "Loss.Train.0.CELoss.epsilonn: CELoss has no"),
        ("Loss.Train.0={CELoss: {}, TopkAcc: {}}", "Loss.Train.0: expected one loss"),
        ("Loss.Train=CELoss", "Loss.Train: expected a list"),
        ("Optimizer.lr.name=Cosin", "Optimizer.lr: there is no schedule 'Cosin'; did you mean"),
        ("Optimizer.lr.learning_rate=abc", "Optimizer.lr.learning_rate: expected a number"),
        ("DataLoader.Train.sampler.batch_size=0", "DataLoader.Train.sampler.batch_size"),
        (
            "DataLoader.Train.dataset.transform_ops.1.RandCropImage.sise=3",
            "DataLoader.Train.dataset.transform_ops.1.RandCropImage.sise: RandCropImage has no",
        ),
        ("DataLoader.Train.dataset.imageroot=x", "did you mean 'image_root'?"),
        ("DataLoader.Train.loader.num_worker=2", "did you mean 'num_workers'?"),
        ("Metric.Eval.0.TopkAcc.topk=[0]", "Metric.Eval.0.TopkAcc.topk.0: expected an integer"),
        ("Infer.PostProcess.name=Topkk", "Infer.PostProcess: there is no postprocess 'Topkk'"),
    ],
)
def test_a_mistake_is_named_with_its_path(override: str, says: str) -> None:
    assert says in mistakes(override)


def test_all_mistakes_come_in_one_report() -> None:
    report = mistakes("Arch.scal=1", "Global.epochs=0", "Optimizer.momentumm=1", "Metrik={}")
    assert report.startswith("4 mistakes in the configuration:")
    for path in ("Arch.scal", "Global.epochs", "Optimizer.momentumm", "Metrik"):
        assert f"\n  {path}: " in report


def test_a_missing_section_and_a_missing_argument_are_named() -> None:
    tree = recipe()
    del tree["Arch"], tree["DataLoader"]["Train"]["dataset"]["image_root"]
    with pytest.raises(ConfigError) as caught:
        check(tree)
    assert "Arch: is missing" in str(caught.value)
    assert "DataLoader.Train.dataset.image_root: is missing" in str(caught.value)


def test_numbers_written_as_text_become_numbers() -> None:
    node = check(recipe("Optimizer.lr.learning_rate='1e-4'")).Optimizer
    assert node.arguments["lr"].arguments["learning_rate"] == 1e-4
    ops = check(recipe()).DataLoader.Train.dataset.arguments["transform_ops"]
    assert ops[3].arguments["scale"] == pytest.approx(1 / 255)


def test_both_ways_of_writing_a_component_are_the_same() -> None:
    first = build({"name": "RandFlipImage", "flip_code": 0}, "transform")
    second = build({"RandFlipImage": {"flip_code": 0}}, "transform")
    assert type(first) is type(second)
    assert vars(first) == vars(second)


def test_keys_without_effect_are_accepted_and_named() -> None:
    notes: list[str] = []
    check(recipe("Global.use_multilabel=true"), notes)
    check(load_config(ROOT / "configs" / "MobileNetV2.yaml", ["Arch.prefix_name=m_"]), notes)
    says = "accepted, but has no effect here"
    assert notes == [f"Global.use_multilabel: {says}", f"Arch.prefix_name: {says}"]


def test_checking_does_not_import_paddle() -> None:
    code = """
        import sys
        from ppcls_lite.config.check import check
        from ppcls_lite.config.file import load_config
        check(load_config("configs/PPLCNet_x0_5.yaml"))
        assert not [m for m in sys.modules if m.split(".")[0] in ("paddle", "cv2")]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True)


@pytest.mark.parametrize("key", sorted(registry.entries()), ids="/".join)
def test_the_registry_reads_the_source_as_python_does(key: tuple[str, str]) -> None:
    entry = registry.entries()[key]
    kind = entry.load()
    if kind.__init__ in (object.__init__, Layer.__init__):
        assert not entry.arguments
        return
    signature = inspect.signature(kind.__init__)
    fields = is_dataclass(kind) and "__dataclass_fields__" in vars(kind)
    hints = typing.get_type_hints(kind if fields else kind.__init__, None, None, True)
    expected = {
        name: (hints[name], REQUIRED if p.default is p.empty else p.default)
        for name, p in signature.parameters.items()
        if name != "self" and name not in entry.fixed
    }
    found = {a.name: (a.type or type(None), a.default) for a in entry.arguments}
    assert found == expected
    assert list(found) == list(expected)
    undocumented = inspect.getdoc(entry.load()) is None
    assert not undocumented, f"{key}: a component needs a docstring"


def test_context_arguments_are_not_asked_of_the_user() -> None:
    tree = recipe()
    assert yaml.safe_dump(tree).count("step_each_epoch") == 0
    assert "step_each_epoch" in CONTEXT
    check(tree)


def test_a_schedule_may_be_written_either_way_and_without_a_name() -> None:
    forms = ({"name": "Cosine", "learning_rate": 0.1}, {"Cosine": {"learning_rate": 0.1}})
    context = {"epochs": 2, "step_each_epoch": 10}
    first, second = (build(form, "schedule", **context) for form in forms)
    assert [first(k) for k in range(20)] == [second(k) for k in range(20)]
    assert build({"learning_rate": 0.3}, "schedule", **context)(7) == 0.3
