"""The check of a recipe: every mistake at once, with its path and a suggestion."""

from __future__ import annotations

import inspect
import math
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
from ppcls_lite.config.check import build, check
from ppcls_lite.config.file import load_config
from ppcls_lite.config.registry import REQUIRED
from ppcls_lite.config.schema import Range
from ppcls_lite.config.walk import CONTEXT
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
        ("Arch.class_num=ten", "Arch.class_num: expected an integer between 1 and"),
        ("Global.epoch=3", "Global.epoch: Global has no key 'epoch'; did you mean 'epochs'?"),
        ("Global.epochs=0", "Global.epochs: expected an integer between 1 and 100,000, found 0"),
        (
            "Global.epochs=many",
            "Global.epochs: expected an integer between 1 and 100,000, found 'many'",
        ),
        ("Global.device=gpuu", "Global.device: expected 'auto' or 'cpu' or 'gpu', found 'gpuu'"),
        ("Global.eval_during_train=1", "expected true or false, found 1"),
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
        ("Optimizer.lr.nam=Cosine", "Optimizer.lr.nam: Cosine has no argument 'nam'; did you mean"),
        ("epochs=3", "epochs: a recipe has no key 'epochs'; did you mean 'Global.epochs'?"),
        ("Eval={}", "did you mean 'DataLoader.Eval'?"),
        ("Loss.Train.0.CELoss.weight=0", "Loss.Train: every loss has the weight 0"),
    ],
)
def test_a_mistake_is_named_with_its_path(override: str, says: str) -> None:
    assert says in mistakes(override)


CROP, NORMALIZE = (f"DataLoader.Train.dataset.transform_ops.{n}" for n in ("1", "3"))
NONSENSE = {
    "Arch.class_num": ("0", "-1", "100000000000", "2000000000"),
    "Arch.class_expand": ("100000000000",),
    "Arch.stride_list.0": ("9999", "0"),
    "Arch.lr_mult_list.0": (".nan", ".inf"),
    "EMA.decay": ("1", ".nan"),
    "Global.epochs": ("1000000000",),
    "Global.image_size": ("1000000000",),
    "Global.max_minutes": (".inf", ".nan", "1e400"),
    "Global.seed": ("18446744073709551616",),
    "Metric.Train.0.TopkAcc.topk.0": ("1" + "0" * 24,),
    "Loss.Train.0.CELoss.weight": (".nan", ".inf"),
    "Loss.Train.0.CELoss.epsilon": (".nan",),
    "Optimizer.lr.learning_rate": (".nan", ".inf", "1" + "0" * 300, "1:30"),
    "Optimizer.lr.warmup_epoch": (".nan", ".inf", "1:30"),
    "Optimizer.momentum": (".nan",),
    "DataLoader.Train.loader.num_workers": ("1000000000",),
    f"{CROP}.RandCropImage.size": ("1000000000", "0", "1:30"),
    f"{CROP}.RandCropImage.ratio": ("[.nan, 1]", "[1, .inf]"),
    f"{NORMALIZE}.NormalizeImage.mean": ("[.nan, 0, 0]", "[.inf, 0, 0]", "[1e300, 0, 0]"),
    f"{NORMALIZE}.NormalizeImage.std": ("[.nan, 1, 1]", "[0, 1, 1]", "[1e-320, 1, 1]"),
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in NONSENSE.items() for value in values]
)
def test_nonsense_is_refused_where_it_stands(key: str, value: str) -> None:
    lists = ("Arch.stride_list=[2, 2, 2, 2, 2]", "Arch.lr_mult_list=[1, 1, 1, 1, 1, 1]")
    crop = f"{CROP}={{RandCropImage: {{size: 224}}}}"
    report = mistakes(*lists, crop, f"{key}={value}")
    assert report.startswith("1 mistake in the configuration:") and f"\n  {key}" in report


def numbers(kind: Any) -> list[Any]:
    """All ranges in a type of the schema."""
    own = [mark for mark in typing.get_args(kind) if isinstance(mark, Range)]
    return own + [mark for part in typing.get_args(kind) for mark in numbers(part)]


def test_every_range_has_two_finite_ends() -> None:
    found = {
        mark
        for entry in registry.entries().values()
        for argument in entry.arguments
        for mark in numbers(argument.type)
    }
    assert len(found) > 8
    for mark in found:
        assert -1e10 < mark.low < mark.high < 1e19
        assert not any(value in mark for value in (math.nan, math.inf, -math.inf))


def test_a_report_stays_short() -> None:
    report = mistakes(*(f"Global.k{i}={'x' * 300}" for i in range(100)))
    assert report.startswith("100 mistakes") and len(report) < 2000
    assert report.splitlines()[-1] == f"  and {101 - len(report.splitlines()) + 1} more"


def test_all_mistakes_come_in_one_report() -> None:
    report = mistakes("Arch.scal=1", "Global.epochs=0", "Optimizer.momentumm=1", "Metrik={}")
    assert report.startswith("4 mistakes in the configuration:")
    for path in ("Arch.scal", "Global.epochs", "Optimizer.momentumm", "Metrik"):
        assert f"\n  {path}: " in report


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"epochs": 3, "iters": 9}, "Global.iters: 9, and Global.epochs: 3: both say"),
        ({"epochs": None}, "Global.epochs: is null, and so is Global.iters"),
        ({"epochs": 3, "eval_steps": 2}, "Global.eval_steps: counts updates"),
        ({"epochs": None, "iters": 9, "eval_steps": 2}, "2 does not divide Global.iters, 9"),
    ],
)
def test_the_length_of_a_run_is_said_once(keys: dict[str, int | None], says: str) -> None:
    tree = recipe()
    tree["Global"] |= keys
    with pytest.raises(ConfigError, match=says):
        check(tree)
    tree["Global"] |= {"epochs": None, "iters": 10, "eval_steps": 2}
    assert check(tree).Global.iters == 10


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
    check(recipe("Global.use_multilabel=true", "Global.use_dali=True"), notes)
    check(load_config(ROOT / "configs" / "MobileNetV2.yaml", ["Arch.prefix_name=m_"]), notes)
    says = "accepted, but has no effect here"
    keys = ("Global.use_multilabel", "Global.use_dali", "Arch.prefix_name")
    assert notes == [f"{key}: {says}" for key in keys]


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
