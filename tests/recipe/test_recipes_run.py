"""Every recipe of configs/ runs, and PaddleClas's own do: on a tiny data set, else as written.

Training, evaluation, export (which compares with oneDNN) and prediction, with images a quarter as
wide and rates for batches of four. The default run takes one recipe of each kind, so that every
component that any recipe names has run; the rest is the same code with other numbers and runs with
PPCLS_LITE_WHOLE_ZOO=1.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.cli import main
from ppcls_lite.config import registry
from ppcls_lite.config.check import build_list, check
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.config.node import Node
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.data.labels import BUNDLED
from ppcls_lite.data.prepare.cli import run as prepare
from ppcls_lite.data.transforms.compose import shape_of
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import read_state, write_state
from ppcls_lite.recipe import networks
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.train import train
from ppcls_lite.report import pictures

TESTS = Path(__file__).resolve().parents[1]
CONFIGS, OFFICIAL = TESTS.parent / "configs", TESTS / "fixtures" / "official"
# Those of other problems than classification have other data, and tests of their own.
OTHERS = re.compile("_base_|segmentation|detection")
RECIPES = [
    *sorted(p for p in CONFIGS.rglob("*.yaml") if not OTHERS.search(str(p.relative_to(CONFIGS)))),
    *sorted(OFFICIAL.glob("*.yaml")),
]
CHOSEN = [  # one of each kind: networks, data sets, losses, metrics, answers
    "MobileNetV2_x0_25",
    "MobileNetV3_small_x0_35",
    "PPLCNetV2_small",
    "PPLCNet_x2_5",
    "ResNet18_vd",
    "ShuffleNetV2_x0_25",
    "ablation/se_all",
    "distillation/cifar10_distilled",
    "pulc/clarity_assessment",
    "pulc/image_orientation",
    "pulc/language_classification",
    "pulc/person_attribute",
    "pulc/table_attribute",
    "pulc/vehicle_attribute",
    "quickstart/attributes",
    "official/LeViT_128S",
    "official/MobileNetV4_conv_small",
    "official/PPHGNetV2_B0",
    "official/StarNet_S1",
    "official/FasterNet_T1",
    "official/MobileNetV1_multilabel",
    "official/R50_vd_distill_MV3_large_x1_0_CIFAR100",
    "official/pedestrian_attribute",
    "official/person_exists",
    "official/safety_helmet_distillation",
    "official/table_attribute_distillation",
]
TESTED_AS_NETWORKS = ("PPLCNetV3", "PPLCNetV4")
ON_REQUEST = pytest.mark.skipif(
    not os.environ.get("PPCLS_LITE_WHOLE_ZOO"), reason="PPCLS_LITE_WHOLE_ZOO=1 runs all recipes"
)
SIZES = ("size", "resize_short", "img_size", "image_shape", "scales")
TRAIN_IMAGES, EVAL_IMAGES, BATCH = 8, 4, 4


def name_of(path: Path) -> str:
    home = CONFIGS if CONFIGS in path.parents else OFFICIAL.parent
    return path.relative_to(home).with_suffix("").as_posix()


ALL = [
    pytest.param(path, id=name_of(path), marks=[] if name_of(path) in CHOSEN else ON_REQUEST)
    for path in RECIPES
]
MAIN_SCORE = {
    "TopkAcc": "top1",
    "DistillationTopkAcc": "top1",
    "TprAtFpr": "tpr",
    "ATTRMetric": "mA",
    "HammingDistance": "HammingDistance",
}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise, half of it dark (class 0)."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(TRAIN_IMAGES + EVAL_IMAGES):
        noise = rng.integers(0, 100, (24, 32, 3), np.uint8) + np.uint8(150 * (i % 2))
        (folder / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    return folder


@pytest.fixture(scope="session")
def weights_home(
    make_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Where official weights are looked for."""
    home = make_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPCLS_LITE_HOME", str(home))
        yield home


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures at the end of a run take a second; tests/engine has them."""
    monkeypatch.setattr(pictures, "curves", lambda *_: None)
    monkeypatch.setattr(ConfusionMatrix, "report", lambda *_: [])


def stand_in(home: Path, arch: dict[str, Any]) -> Path:
    """Random weights of 1000 classes under the name of the official file that `arch` asks for."""
    ssld = arch.get("use_ssld") or ZOO[arch["name"]].only_ssld
    path = home / "weights" / f"{arch['name']}{'_ssld' * bool(ssld)}_pretrained.pdparams"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_state(path, create_model(arch["name"]).state_dict())
    return path


def tiny(path: Path, photos: Path, home: Path, output: Path) -> dict[str, Any]:
    """The recipe on `photos`, a quarter as large, two batches in one epoch, on the CPU."""
    tree = _quarter(Recipe.of(load_config(path)).tree)
    tree["Global"] |= {
        **{"device": "cpu", "epochs": 1, "start_eval_epoch": 0, "use_visualdl": False},
        **{"print_batch_step": 1, "output_dir": str(output)},
        "save_inference_dir": str(output / "inference"),
    }
    lr = tree["Optimizer"]["lr"]  # the recipes' rates are for batches of 256 to 2048
    lr |= {"learning_rate": lr["learning_rate"] / 100} if "learning_rate" in lr else {}
    lr |= {"values": [rate / 100 for rate in lr["values"]]} if "values" in lr else {}
    tree["Arch"].setdefault("class_num", tree["Global"].get("class_num"))  # its older place
    frozen = tree["Arch"].get("freeze_params_list") or [False]
    for arch, is_frozen in zip(networks_of(tree["Arch"]), frozen):
        if "img_size" in (a.name for a in registry.entries()["model", arch["name"]].arguments):
            arch["img_size"] = 56
        if arch["name"] == "InferenceModel":
            arch["path"] = str(exported(output, tree))
        elif arch.get("pretrained") is True:
            stand_in(home, arch)
        elif arch.get("pretrained") or is_frozen:  # a teacher that another run has made
            arch["pretrained"] = str(teacher(output, arch, tree["Arch"]["class_num"]))
    tree["Global"].pop("pretrained_model", None)  # of another recipe
    tree["Arch"].setdefault("class_num", tree["Global"].get("class_num"))  # of older recipes
    for split in ("Train", "Eval"):
        section = tree["DataLoader"][split]
        section["loader"] = {"num_workers": 0}
        sampler, dataset = section["sampler"], section["dataset"]
        sampler["first_bs" if "first_bs" in sampler else "batch_size"] = BATCH
        if "divided_factor" in sampler:
            sampler["divided_factor"] //= 4
        dataset["image_root"] = str(photos)
        key = "sample_list_path" if "sample_list_path" in dataset else "cls_label_path"
        labelled = _list_of(split, dataset["name"], tree["Arch"]["class_num"])
        dataset[key] = str(output / f"{split}.txt")
        Path(dataset[key]).write_text("\n".join(labelled), encoding="utf-8")
    answers = tree["Infer"]["PostProcess"]
    names = answers.get("class_id_map_file")
    if names and not (BUNDLED / Path(names).name).is_file():
        (output / "labels.txt").write_text(
            "".join(f"c{i}\n" for i in range(tree["Arch"]["class_num"]))
        )
        answers["class_id_map_file"] = str(output / "labels.txt")
    return tree


def networks_of(arch: dict[str, Any]) -> list[dict[str, Any]]:
    """The maps of an `Arch` section that describe a network."""
    return [network for item in arch.get("models", ()) for network in item.values()] or [arch]


def teacher(output: Path, arch: dict[str, Any], class_num: int) -> Path:
    """Random weights of a network of `Arch.models`."""
    beside = ("name", "class_num", "pretrained", "use_ssld")
    arguments = {key: value for key, value in arch.items() if key not in beside}
    network = create_model(arch["name"], arch.get("class_num", class_num), **arguments)
    return write_state(output / "teacher", network.state_dict())


def exported(output: Path, tree: dict[str, Any]) -> Path:
    """A teacher as an inference folder."""
    return export_model(
        create_model("PPLCNet_x0_25", tree["Arch"]["class_num"]),
        output / "teacher",
        image_shape=shape_of(build_list(tree["Infer"]["transforms"], "transform")),
        transforms=tree["Infer"]["transforms"],
        postprocess={"Topk": {}},
        labels=None,
        model_name="PPLCNet_x0_25",
    ).folder


def _quarter(value: Any, inside: bool = False) -> Any:
    """All sizes of a tree divided by four; recipes for small images keep theirs."""
    if isinstance(value, dict):
        return {k: _quarter(v, inside or k in SIZES) for k, v in value.items()}
    if isinstance(value, list):
        return [_quarter(v, inside) for v in value]
    return value // 4 if inside and type(value) is int and value > 64 else value


def _list_of(split: str, dataset: str, class_num: int) -> list[str]:
    numbers = range(TRAIN_IMAGES) if split == "Train" else range(TRAIN_IMAGES, 12)
    if dataset == "CustomLabelDataset":
        return [f"{i}.jpg" for i in numbers]
    if dataset == "MultiLabelDataset":
        return [f"{i}.jpg\t{','.join(str((i + c) % 2) for c in range(class_num))}" for i in numbers]
    return [f"{i}.jpg\t{i % 2}" for i in numbers]


def components(value: Any) -> set[tuple[str, str]]:
    """(kind, class) of everything that a checked recipe names."""
    if isinstance(value, Node):
        own = {(value.entry.kind, value.entry.class_name)}
        return own | components(value.arguments) | components(value.extras)
    if dataclasses.is_dataclass(value):
        return components(vars(value))
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(components, items))


def trained(tree: dict[str, Any]) -> tuple[Path, dict[str, float]]:
    """The folder of a run, and the scores of its evaluation."""
    run_dir = train(tree).run_dir
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    terms = [name for name in steps[0] if "Loss" in name]  # CELoss, DMLLoss_Student_Teacher
    assert len(steps) >= TRAIN_IMAGES // BATCH
    assert len(terms) >= len(tree["Loss"]["Train"])
    assert all(np.isfinite(step[name]) for step in steps for name in terms)
    (scores,) = (record for record in records if record["kind"] == "eval")
    return run_dir, scores


@pytest.mark.parametrize("path", ALL)
def test_a_recipe_trains_evaluates_exports_and_predicts(
    path: Path, photos: Path, weights_home: Path, no_plots: None, tmp_path: Path
) -> None:
    tree = tiny(path, photos, weights_home, tmp_path)
    run_dir, scores = trained(tree)
    assert MAIN_SCORE[next(iter(tree["Metric"]["Eval"][0]))] in scores
    tree["Global"]["pretrained_model"] = str(run_dir / "best_model")
    report = export(tree)
    assert f" of {tree['Arch']['class_num']} classes" in report.what
    (answer,) = Predictor(report.folder).predict(str(photos / "0.jpg"))
    assert {"class_ids", "scores", "label_names"} <= set(answer) or "attributes" in answer


def test_the_chosen_recipes_hold_every_component_of_all() -> None:
    """The newer families' networks train, and are exported, in tests/models."""
    used = {name_of(path): components(check(load_config(path))) for path in RECIPES}
    assert set(CHOSEN) <= set(used)
    for found in used.values():
        found -= {("model", family) for family in TESTED_AS_NETWORKS}
    assert set().union(*used.values()) == set().union(*(used[name] for name in CHOSEN))


@pytest.mark.parametrize("prob", [(1.0, 0.0), (0.0, 1.0)])
def test_batches_are_mixed(
    prob: tuple[float, float], photos: Path, weights_home: Path, no_plots: None, tmp_path: Path
) -> None:
    tree = tiny(CONFIGS / "PPLCNet_x0_25.yaml", photos, weights_home, tmp_path)
    mixers = {"MixupOperator": {"prob": prob[0]}, "CutmixOperator": {"alpha": 1.0, "prob": prob[1]}}
    tree["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [{"OpSampler": mixers}]
    assert "top1" in trained(tree)[1]


def test_all_scores_of_attributes(
    photos: Path, weights_home: Path, no_plots: None, tmp_path: Path
) -> None:
    tree = tiny(CONFIGS / "quickstart" / "attributes.yaml", photos, weights_home, tmp_path)
    names = ["AccuracyScore", "HammingDistance", "MultiLabelMAP"]
    tree["Metric"]["Eval"] = [{name: None} for name in names]
    _, scores = trained(tree)
    assert scores["AccuracyScore"] == pytest.approx(1 - scores["HammingDistance"])
    assert 0 < scores["MultiLabelMAP"] <= 1


def test_pulc_starts_from_the_official_weights(
    photos: Path, weights_home: Path, tmp_path: Path
) -> None:
    """Also where the recipe changes the network: no last convolution, other strides."""
    for task in ("clarity_assessment", "language_classification"):
        tree = tiny(CONFIGS / "pulc" / f"{task}.yaml", photos, weights_home, tmp_path)
        official = read_state(stand_in(weights_home, tree["Arch"]))
        own = networks.build_model(check(tree), training=True).state_dict()
        same = [key for key, value in own.items() if np.array_equal(official[key], value.numpy())]
        assert {key.split(".")[0] for key in set(own) - set(same)} == {"fc"}


@pytest.mark.parametrize("task", ["animals", "attributes"])
def test_a_task_on_photographs(
    task: str,
    real_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The map and the commands of docs/pulc.md on one in twenty photographs, for three epochs."""
    monkeypatch.chdir(tmp_path)
    dataset = tmp_path / "dataset" / "cifar10"
    dataset.mkdir(parents=True)
    shutil.copy(real_data / "cifar10" / "labels.txt", dataset)
    for split in ("train", "test"):
        (dataset / split).symlink_to(real_data / "cifar10" / split)
        lines = (real_data / "cifar10" / f"{split}_list.txt").read_text().splitlines(True)
        (dataset / f"{split}_list.txt").write_text("".join(lines[::20]))
    page = (CONFIGS.parent / "docs" / "pulc.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"```yaml\n# dataset/{task}_map.yaml\n(.*?)```", page, re.DOTALL)
    Path("map.yaml").write_text(text)
    lists = ["dataset/cifar10/train_list.txt", "dataset/cifar10/test_list.txt"]
    prepare(["relabel", *lists, "--map", "map.yaml", "--output", f"dataset/{task}"])
    options = ["-c", str(CONFIGS / "quickstart" / f"{task}.yaml")]
    changes = ["Global.epochs=3", "Global.device=cpu", "Arch.name=PPLCNet_x0_25"]
    changes += ["DataLoader.Train.sampler.batch_size=16", "Optimizer.lr.warmup_epoch=0"]
    options += [f"-o{change}" for change in changes]
    assert main(["train", *options]) == 0
    options += ["-o", f"Global.pretrained_model=output/{task}/PPLCNet_x0_25/best_model"]
    assert main(["eval", *options]) == 0
    assert main(["export", *options]) == 0
    capsys.readouterr()
    images = sorted(map(str, (dataset / "test" / "frog").iterdir()))[:5]
    arguments = ["--model", f"inference/{task}", "--output", "answers.jsonl"]
    assert main(["predict", "--input", *images, *arguments]) == 0
    answers = list(map(json.loads, Path("answers.jsonl").read_text().splitlines()))
    names = Path("dataset", task, "labels.txt").read_text().split()[1::2]
    assert len(answers) == 5
    assert {name for answer in answers for name in answer["label_names"]} <= set(names)
    text = Path(f"output/{task}/PPLCNet_x0_25/metrics.jsonl").read_text()
    losses = [r["loss"] for r in map(json.loads, text.splitlines()) if r["kind"] == "train"]
    assert losses[-1] < 0.95 * losses[0]
