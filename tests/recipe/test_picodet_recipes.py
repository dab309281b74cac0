"""PicoDet's recipes: they run on eight small images, remember them, resume, and are exported."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.cli import main
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.models.weights.load import read_state
from ppcls_lite.recipe.evaluate import evaluate
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.infer import infer
from ppcls_lite.recipe.train import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZE = 64  # pixels
COLOURS = (40, 40, 230), (230, 60, 40)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs, the last one without an object, and COCO files that list them as often as
    an epoch needs them."""
    home = tmp_path_factory.mktemp("boxes")
    (home / "images").mkdir()
    rng = np.random.default_rng(3)
    boxes = []
    for i in range(8):
        image = rng.integers(90, 120, (72, 96, 3), dtype=np.uint8)
        for kind in range(int(rng.integers(1, 3)) if i < 7 else 0):
            width, height = rng.integers(36, 60, 2).tolist()
            x, y = int(rng.integers(0, 96 - width)), int(rng.integers(0, 72 - height))
            image[y : y + height, x : x + width] = COLOURS[kind]
            boxes.append((i, 7 + kind, [x, y, width, height]))
        cv2.imwrite(str(home / "images" / f"{i}.png"), image)
    for split, times in (("train", 3), ("long", 32), ("val", 1)):
        known: dict[str, Any] = {"images": [], "annotations": []}
        known["categories"] = [{"id": 7, "name": "red"}, {"id": 8, "name": "blue"}]
        for turn in range(times):
            for i in range(8):
                image = {"id": turn * 8 + i, "file_name": f"{i}.png", "width": 96, "height": 72}
                known["images"].append(image)
            for image, kind, box in boxes:
                number = len(known["annotations"])
                its = {"id": number, "image_id": turn * 8 + image, "category_id": kind}
                its |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                known["annotations"].append(its)
        (home / f"{split}.json").write_text(json.dumps(known), encoding="utf-8")
    return home


def recipe(photos: Path, out: Path, name: str, *overrides: str, plain: bool = True) -> Any:
    """A recipe of configs/detection on the photographs, with a small network."""
    tree = load_config(CONFIGS / "detection" / f"{name}.yaml")
    family = tree["Arch"]["name"].rsplit("_PPLCNet", 1)[0].rsplit("_MobileNet", 1)[0]
    tree["Arch"] = {"name": f"{family}_PPLCNet_x0_25", "neck": {"out_channels": 32}}
    tree["Arch"]["head"] = {"num_convs": 1}
    for split, file in (("Train", "train"), ("Eval", "val")):
        section = tree["DataLoader"][split]
        dataset = section["dataset"]
        ops = [op for op in dataset["transform_ops"] if not plain or "Random" not in str([*op])]
        ops = [op for op in ops if not plain or "RandFlipImage" not in op]
        ops = [{"ResizeImage": {"size": SIZE}} if "ResizeImage" in op else op for op in ops]
        section["dataset"] = {
            "name": "COCODataset",
            "image_root": str(photos / "images"),
            "annotation": str(photos / f"{file}.json"),
            "transform_ops": ops,
        }
        section["loader"] = {"num_workers": 0}
        section["sampler"] |= {"batch_size": 8}
    sizes = [SIZE] if plain else [SIZE, SIZE + 32]
    tree["DataLoader"]["Train"]["sampler"] |= {"sizes": sizes}
    tree["Metric"] = {"Eval": [{"CocoAP": None}]}
    tree["Global"] |= {"output_dir": str(out), "save_inference_dir": str(out / "inference")}
    tree["Global"] |= {"save_interval": 100, "keep_last": None, "device": "cpu"}
    tree["Infer"]["PostProcess"].pop("class_id_map_file")
    path = out / "recipe.yaml"
    out.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")
    return load_config(path, overrides)


@pytest.fixture(scope="module")
def learnt(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """The recipe with the weights of a run that has seen nothing but the eight images, its scores.

    It predicts with what has been exported.
    """
    home = tmp_path_factory.mktemp("learnt")
    fast = "{name: AdamW, weight_decay: 0.0, lr: {name: Cosine, learning_rate: 0.01}}"
    changes = ("Global.epochs=8", "Global.eval_interval=8", "EMA.decay=0.9")
    tree = recipe(photos, home, "picodet_s_320_coco_lcnet", f"Optimizer={fast}", *changes)
    tree["DataLoader"]["Train"]["dataset"]["annotation"] = str(photos / "long.json")
    run = train(tree)
    tree["Global"]["pretrained_model"] = str(run.run_dir / "best_model")
    report = export(tree)
    assert report.changed == 0
    assert report.max_difference < 1e-3
    return tree, run.last


def test_eight_images_are_remembered(learnt: tuple[Any, dict[str, Any]]) -> None:
    tree, last = learnt
    assert last["AP_ema"] > 0.95, last
    assert last["AP50_ema"] == 1
    assert evaluate(tree)["AP"] == pytest.approx(last["AP_ema"], abs=1e-6)  # counts the classes


def test_the_names_of_a_label_file_are_in_the_table(
    learnt: tuple[Any, dict[str, Any]],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = copy.deepcopy(learnt[0])
    names = tmp_path / "names.txt"
    names.write_text("red\nblue\n", encoding="utf-8")
    tree["DataLoader"]["Eval"]["dataset"] |= {"name": "VOCDataset", "label_file": str(names)}
    tree["Infer"]["infer_imgs"] = str(photos / "images")
    assert infer(tree) == 0
    table = capsys.readouterr().out
    assert re.search(r"^\S*0\.png +[01] +\d\.\d+ .* (red|blue)$", table, re.MULTILINE), table


def test_int8_says_what_it_costs_in_ap(
    learnt: tuple[Any, dict[str, Any]],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, which quantises, is not installed")
    tree = copy.deepcopy(learnt[0])
    folder = tree["Global"]["save_inference_dir"]
    config, others = tmp_path / "recipe.yaml", tmp_path / "others"
    config.write_text(json.dumps(tree), encoding="utf-8")
    others.mkdir()
    for path in (photos / "images").iterdir():  # calibration must not see what is scored
        cv2.imwrite(str(others / path.name), cv2.imread(str(path))[:, ::-1])
    command = ["quantize", "--model", folder, "--calibration", str(others), "-c", str(config)]
    assert main([*command, "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    row = re.search(r"^onnxruntime +(\S+)% +(\S+)%", shown, re.MULTILINE)
    assert "AP fp32" in shown and row
    before, after = map(float, row.groups())
    assert before > 95 and after > 60, shown
    with Predictor(folder, engine="onnxruntime", precision="int8", threads=1) as predictor:
        (answer,) = predictor.predict([str(photos / "images" / "0.png")])
    assert max(answer["scores"]) > 0.3


def test_a_detector_teaches_another(
    learnt: tuple[Any, dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    tree = copy.deepcopy(learnt[0])
    weights = tree["Global"].pop("pretrained_model")
    teacher, student = copy.deepcopy(tree["Arch"]), copy.deepcopy(tree["Arch"])
    student["name"] = student["name"].replace("picodet", "picodet_legacy")
    student["head"]["num_convs"] = 2
    models = [{"Teacher": teacher | {"pretrained": weights}}, {"Student": student}]
    arch = {"name": "DistillationModel", "models": models, "freeze_params_list": [True, False]}
    tree["Arch"] = arch | {"class_num": 2}
    tree["Loss"]["Train"].append({"DistillationDetectionLoss": None})
    tree["DataLoader"]["Train"]["dataset"]["annotation"] = str(photos / "train.json")
    tree["Global"] |= {"epochs": 1, "eval_interval": 1, "output_dir": str(tmp_path)}
    run = train(tree)
    log = (run.run_dir / "train.log").read_text(encoding="utf-8")
    found = re.search(r"Teacher, which does not change\]\[Avg\]AP: ([\d.]+)", log)
    assert found and float(found[1]) > 0.9
    terms = re.findall(r"(scores|sides)_Student_Teacher: ([\d.]+)", log)
    assert {name for name, _ in terms} == {"scores", "sides"}
    assert all(0 < float(value) < 50 for _, value in terms)
    assert 0 <= run.last["AP"] <= 1


BASES = {
    "picodet_s_320_coco_lcnet": 256,
    "picodet_MobileNetV3_large_x0_35_coco": 224,
}


@pytest.mark.parametrize("name", BASES)
def test_a_resumed_run_ends_with_the_same_weights(name: str, photos: Path, tmp_path: Path) -> None:
    """With random crops and sizes, and in the newer recipe across the assigners' change."""
    few = ("Global.epochs=4", "Global.save_interval=1", "Global.eval_during_train=false")
    whole = train(recipe(photos, tmp_path / "a", name, *few, plain=False))
    start = f"Global.checkpoints={whole.run_dir / 'epoch_2'}"
    resumed = train(recipe(photos, tmp_path / "b", name, *few, start, plain=False))
    for file in ("latest", "latest_raw"):
        states = [read_state(run.run_dir / file) for run in (whole, resumed)]
        for key, value in states[0].items():
            np.testing.assert_array_equal(states[1][key], value, err_msg=f"{file}: {key}")
    log = (whole.run_dir / "train.log").read_text(encoding="utf-8")
    assert f"is multiplied by {8 / BASES[name]:g}" in log  # the rate follows the batch


def test_every_recipe_of_coco_scales_its_rate() -> None:
    rates = {"legacy": 0.3 / 224, "lcnet": 0.005 / 4, "voc": 0.005 / 4}
    for path in sorted((CONFIGS / "detection").glob("picodet_*.yaml")):
        settings = Recipe.of(load_config(path)).settings
        lr = settings.Optimizer.arguments["lr"]
        kind = next((k for k in ("lcnet", "voc") if path.stem.endswith(k)), "legacy")
        rate = lr.arguments["learning_rate"] / lr.extras.base_batch_size
        assert rate == pytest.approx(rates[kind]), path.name
        batch = settings.DataLoader.Train.sampler.arguments["batch_size"]
        assert lr.extras.base_batch_size == 4 * batch, path.name
        sizes = settings.DataLoader.Train.sampler.arguments["sizes"]
        (size,) = {op.get("size") for op in settings.Infer.transforms if op.get("size")}
        assert sum(sizes) / len(sizes) == size, path.name
