"""The recipes of configs/segmentation: each runs on small images, and does what it should."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.cli import main
from ppcls_lite.config.check import check
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump, load_config
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.metrics import segmentation
from ppcls_lite.models.weights.load import read_state
from ppcls_lite.recipe.evaluate import evaluate
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.train import train
from ppcls_lite.report import pictures

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "segmentation"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
CHOSEN = "deeplabv3p_PPLCNet_x0_5_camvid", "deeplabv3p_MobileNetV3_large_x0_5_cityscapes", "binary"
ON_REQUEST = pytest.mark.skipif(
    not os.environ.get("PPCLS_LITE_WHOLE_ZOO"), reason="PPCLS_LITE_WHOLE_ZOO=1 runs all recipes"
)
SHAPE = 48, 64  # of the photographs
COLOURS = (230, 40, 40), (40, 60, 230)


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph with a rectangle or two, and the class of each pixel; a row counts nowhere."""
    rng = np.random.default_rng(number)
    image = rng.integers(110, 140, (*SHAPE, 3), np.uint8)
    mask = np.zeros(SHAPE, np.uint8)
    for left in (2, 34)[: 1 + number % 2]:
        width, height = rng.integers(18, 28, 2)
        x, y = left + int(rng.integers(0, 3)), int(rng.integers(2, 18))
        kind = int(rng.integers(2))
        image[y : y + height, x : x + width] = COLOURS[kind]
        mask[y : y + height, x : x + width] = 1 + kind
    mask[0] = 255
    return image, mask


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes: a list of them, masks of 0 and 255, and Cityscapes's layout."""
    home = tmp_path_factory.mktemp("scenes")
    for folder in ("images", "masks", "binary"):
        (home / folder).mkdir()
    for number in range(8):
        image, mask = scene(number)
        foreground = np.where(mask == 255, 0, mask > 0).astype(np.uint8) * 255
        named = {"images": image[..., ::-1], "masks": mask, "binary": foreground}
        for split in ("train", "val"):
            for part, ending in (
                ("leftImg8bit", "leftImg8bit"),
                ("gtFine", "gtFine_labelTrainIds"),
            ):
                file = home / part / split / "town" / f"town_{number}_{ending}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), named["images" if part == "leftImg8bit" else "masks"])
        for folder, pixels in named.items():
            cv2.imwrite(str(home / folder / f"{number}.png"), pixels)
    return home


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures at the end of a run take a second; tests/metrics and tests/report have them."""
    monkeypatch.setattr(pictures, "curves", lambda *_: None)
    monkeypatch.setattr(segmentation, "draw", lambda *_, **__: None)


def small(name: str, scenes: Path, out: Path, *overrides: str) -> Any:
    """The recipe on the scenes, with windows of 32 pixels, without weights."""
    tree = load_config(CONFIGS / f"{name}.yaml")
    tree["Global"] |= {"device": "cpu", "iters": 2, "eval_steps": 2, "print_batch_step": 1}
    tree["Global"] |= {"output_dir": str(out), "save_inference_dir": str(out / "inference")}
    tree["Arch"].get("backbone", {}).pop("pretrained", None)
    for split in ("Train", "Eval"):
        section = tree["DataLoader"][split]
        section["loader"] = {"num_workers": 0}
        section["sampler"] |= {"batch_size": 4}
        dataset = section["dataset"]
        dataset["image_root"] = str(scenes)
        dataset.pop("label_file", None)
        if dataset["name"] == "SegDataset":
            dataset["mask_dir"] = "binary" if name == "binary" else "masks"
            dataset["list_path"], dataset["ignore_index"] = None, [11, 255]
            if name == "binary":
                dataset["ignore_index"] = 11
        for op in dataset["transform_ops"]:
            if "RandomPadCrop" in op:
                op["RandomPadCrop"]["size"] = [32, 32]
    tree["Infer"]["PostProcess"]["Segmentation"] = {"label_list": None}
    tree["Infer"].pop("infer_imgs", None)
    out.mkdir(exist_ok=True)
    path = out / "recipe.yaml"
    path.write_text(dump(tree), encoding="utf-8")
    return load_config(path, overrides)


ALL = [pytest.param(name, marks=[] if name in CHOSEN else ON_REQUEST, id=name) for name in RECIPES]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_right(name: str) -> None:
    settings = check(load_config(CONFIGS / f"{name}.yaml"))
    assert settings.Arch.entry.class_name == "DeepLabV3P"
    run, schedule = settings.Global, settings.Optimizer.arguments["lr"]
    assert run.iters % run.eval_steps == 0
    assert (schedule.get("power"), schedule.get("learning_rate")) == (0.9, 0.01)
    if name.endswith("_cityscapes"):
        assert (run.iters, run.total_batch_size) == (80_000, 32)
        assert settings.Arch.arguments["backbone"].get("output_stride") == 32
    assert Recipe.of(load_config(CONFIGS / f"{name}.yaml")).settings.Infer.transforms


def test_the_shortest_recipe_has_ten_lines() -> None:
    assert len((CONFIGS / "masks.yaml").read_text(encoding="utf-8").splitlines()) <= 10


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_trains_evaluates_exports_and_predicts(
    name: str, scenes: Path, tmp_path: Path
) -> None:
    tree = small(name, scenes, tmp_path)
    run = train(tree)
    assert 0 <= run.last["miou"] <= 1 and np.isfinite(run.last["loss"])
    tree["Global"]["pretrained_model"] = str(run.run_dir / "best_model")
    report = export(tree)
    with Predictor(report.folder) as predictor:
        (answer,) = predictor.predict(str(scenes / "images" / "0.png"))
    assert sum(answer["pixels"]) == SHAPE[0] * SHAPE[1]


def test_photographs_of_one_channel(scenes: Path, tmp_path: Path) -> None:
    """From the file to the answer; one image an update is enough."""
    name = "deeplabv3p_PPLCNet_x0_5_camvid"
    arch = "{name: deeplabv3p_PPLCNet_x0_25, class_num: 3, backbone: {in_channels: 1}}"
    numbers = "{mean: [0.5], std: [0.5], order: ''}"
    ops = f"[DecodeImage, ToGray, {{NormalizeImage: {numbers}}}]"
    own = [f"DataLoader.{split}.dataset.transform_ops={ops}" for split in ("Train", "Eval")]
    own += [f"Arch={arch}", "DataLoader.Train.sampler.batch_size=1", "Global.iters=1"]
    tree = small(name, scenes, tmp_path, *own, "Global.eval_steps=1", "Global.total_batch_size=1")
    run = train(tree)
    assert np.isfinite(run.last["loss"])
    tree["Global"]["pretrained_model"] = str(run.run_dir / "best_model")
    with Predictor(export(tree).folder) as predictor:
        assert predictor.spec.image_shape[0] == 1
        (answer,) = predictor.predict(str(scenes / "images" / "0.png"))
    assert answer["mask"]["size"] == [*SHAPE]


def remembered(scenes: Path, out: Path, *overrides: str) -> Any:
    """The recipe of CamVid for a small network that is to learn the eight scenes by heart."""
    fast = "{name: AdamW, weight_decay: 0.0, lr: {name: Cosine, learning_rate: 0.01}}"
    plain = "[DecodeImage, {NormalizeImage: {order: ''}}]"
    arch = "{name: deeplabv3p_PPLCNet_x0_25, class_num: 3, backbone: {output_stride: 16}}"
    own = [f"Optimizer={fast}", f"Arch={arch}", "DataLoader.Train.sampler.batch_size=8"]
    own += [f"DataLoader.{split}.dataset.transform_ops={plain}" for split in ("Train", "Eval")]
    return small("deeplabv3p_PPLCNet_x0_5_camvid", scenes, out, *own, *overrides)


def test_eight_images_are_remembered(scenes: Path, tmp_path: Path) -> None:
    tree = remembered(scenes, tmp_path, "Global.iters=60", "Global.eval_steps=60")
    run = train(tree)
    assert run.last["miou"] > 0.85, run.last
    tree["Global"]["pretrained_model"] = str(run.run_dir / "best_model")
    assert evaluate(tree)["miou"] == pytest.approx(run.last["miou"], abs=1e-6)
    table = (run.run_dir / "per_class.txt").read_text(encoding="utf-8")
    assert "mIoU" in table and "left out of the means" in table


def test_a_resumed_run_ends_with_the_same_weights(scenes: Path, tmp_path: Path) -> None:
    """With random windows, dropout and an auxiliary head, in the middle of a pass over the data."""
    arch = "{name: deeplabv3p_PPLCNet_x0_25, class_num: 3, auxiliary: [2]}"
    terms = "[SegCELoss: {}, SegCELoss: {weight: 0.4, key: aux_0}, DiceLoss: {weight: 0.5}]"
    own = [f"Arch={arch}", f"Loss.Train={terms}", "Loss.Eval=null", "Global.iters=6"]
    own += ["Global.eval_steps=3", "Global.keep_last=null"]
    name = "deeplabv3p_PPLCNet_x0_5_camvid"
    whole = train(small(name, scenes, tmp_path / "a", *own))
    start = f"Global.checkpoints={whole.run_dir / 'epoch_1'}"
    resumed = train(small(name, scenes, tmp_path / "b", *own, start))
    states = [read_state(run.run_dir / "latest") for run in (whole, resumed)]
    assert any(key.startswith("aux_heads.0") for key in states[0])
    for key, value in states[0].items():
        np.testing.assert_array_equal(states[1][key], value, err_msg=key)


PIXELS = """
from paddle import nn

from ppcls_lite import register
from ppcls_lite.config.schema import PositiveInt
from ppcls_lite.models.network import Network


@register("model")
class Pixelwise(Network):
    def __init__(self, class_num: PositiveInt) -> None:
        super().__init__()
        self.class_num = class_num
        self.layers = nn.Sequential(
            nn.Conv2D(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2D(6, class_num, 1)
        )

    def forward(self, x):
        return self.layers(x)
"""


def test_two_processes_train_as_one(scenes: Path, tmp_path: Path) -> None:
    """Of a network without batch normalisation, which sees the images of its process."""
    plugin = tmp_path / "pixelwise.py"
    plugin.write_text(PIXELS, encoding="utf-8")
    terms = "[SegCELoss: {class_weight: [0.2, 1.0, 1.5]}, DiceLoss: {weight: 0.5}]"
    own = ["Arch={name: Pixelwise, class_num: 3}", f"Loss.Train={terms}", "Global.iters=4"]
    own += [f"Global.plugins=[{plugin}]", "Global.eval_steps=4", "Global.total_batch_size=4"]
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        small("deeplabv3p_PPLCNet_x0_5_camvid", scenes, out)
        options = [*own, f"Global.cpu_processes={processes}"]
        pairs = [item for override in options for item in ("-o", override)]
        assert main(["train", "-c", str(out / "recipe.yaml"), *pairs]) == 0
        lines = (out / "Pixelwise" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        (scores,) = (json.loads(line) for line in lines if '"eval"' in line)
        results.append((read_state(out / "Pixelwise" / "latest"), scores))
    (one, scores), (two, others) = results
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
    assert others["miou"] == pytest.approx(scores["miou"], abs=1e-3)
