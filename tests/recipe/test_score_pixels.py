"""Networks of pixels are scored by the recipe's metric: int8, engine auto, and through windows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from ppcls_lite.cli import main
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.settings import TilingSettings
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.onnx.metadata import QUANTIZATION_KEY, read_metadata
from ppcls_lite.inference.postprocess.run_lengths import decode_map
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec, Outputs
from ppcls_lite.inference.viewed_forward import ViewedForward
from ppcls_lite.metrics.segmentation import MeanIoU
from ppcls_lite.recipe.parts import (
    build_datasets,
    build_evaluator,
    build_forward,
    image_shape_of,
)
from ppcls_lite.recipe.score import by_recipe

pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
OPS = [{"DecodeImage": {}}, {"NormalizeImage": {"order": ""}}]


def brightest() -> nn.Layer:
    """A network whose logits are the colours."""
    network = nn.Conv2D(3, 3, 1, bias_attr=False)
    std = paddle.to_tensor(np.diag([0.229, 0.224, 0.225]).astype(np.float32))
    network.weight.set_value(std.reshape([3, 3, 1, 1]))
    shift = paddle.to_tensor(np.array([0.485, 0.456, 0.406], np.float32))
    network.bias = network.create_parameter([3])
    network.bias.set_value(shift)
    return network


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `m` whose network finds the brightest colour, and images whose masks say it."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 3)):
        for number in range(count):
            colours = rng.integers(0, 256, (4, 6, 3), np.uint8)
            image = colours.repeat(8, axis=0).repeat(8 + number, axis=1)  # of several sizes
            for kind, picture in (("images", image[..., ::-1]), ("masks", image.argmax(axis=2))):
                path = tmp_path / part / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture.astype(np.uint8))
    dataset = {"name": "SegDataset", "image_root": str(tmp_path / "val"), "transform_ops": OPS}
    recipe = {
        "Global": {"device": "cpu"},
        "Arch": {"name": "deeplabv3p_PPLCNet_x0_25", "class_num": 3},
        "Metric": {"Eval": ["MeanIoU"]},
        "DataLoader": {"Eval": {"dataset": dataset, "sampler": {"batch_size": 1}}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    network = brightest()
    export_model(network, tmp_path / "m", (3, -1, -1), OPS[1:], {"Segmentation": {}}, format="both")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    return tmp_path


def test_int8_is_scored_by_the_recipes_metric(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = ["--calibration", "train/images", "--images", "4", "--threads", "1"]
    assert main(["quantize", "--model", "m", *calibration, "-c", "recipe.yaml"]) == 0
    assert "miou fp32" in capsys.readouterr().out
    kept = json.loads(read_metadata(home / "m" / "inference_int8.onnx")[QUANTIZATION_KEY])
    for engine in kept["engines"]:
        assert engine["score_before"] == pytest.approx(1.0)
        assert 0.9 < engine["score_after"] <= 1.0
        assert 0.95 < engine["agreement"] <= 1.0
    image = sorted(Path("val/images").iterdir())[0]
    with Predictor("m", engine="onnxruntime", precision="int8", threads=1) as predictor:
        (int8,) = predictor.predict(str(image))
    with Predictor("m", engine="auto", threads=1) as predictor:
        (auto,) = predictor.predict(str(image))
    assert int8["mask"]["size"] == auto["mask"]["size"] and predictor.choice is not None


def test_engines_are_scored_through_windows(home: Path) -> None:
    windows = TilingSettings([16, 16], [8, 8])
    spec = InferenceSpec("Net", OPS, {"Segmentation": {}}, (3, 16, 16), "logits", tiling=windows)
    std, mean = (np.reshape(n, (3, 1, 1)) for n in ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406]))
    shapes = set()

    def run(images: np.ndarray) -> Outputs:
        shapes.add(images.shape)
        return {"logits": (images * std + mean).astype(np.float32)}

    assert by_recipe(spec, "recipe.yaml").scores(run)["miou"] == pytest.approx(1.0)
    assert shapes == {(1, 3, 16, 16)}


@pytest.mark.parametrize("output", ["classes", "probabilities"])
@pytest.mark.parametrize("way", ["resized", "letterboxed", "cropped"])
def test_resized_images_are_scored_in_their_own_pixels(home: Path, way: str, output: str) -> None:
    """As predictions are, and by the masks as they are in their files; in batches as well."""
    ops = {
        "resized": [{"ResizeImage": {"size": [20, 18]}}],
        "letterboxed": [
            {"ResizeImage": {"size": [40, 20], "keep_ratio": True}},
            {"Padv2": {"size": [40, 24], "pad_mode": 1}},
        ],
        "cropped": [{"CropImage": {"size": 24}}],
    }[way]
    tree = yaml.safe_load(Path("recipe.yaml").read_text(encoding="utf-8"))
    section = tree["DataLoader"]["Eval"]
    section["dataset"]["transform_ops"] = [OPS[0], *ops, OPS[1]]
    section |= {"sampler": {"batch_size": 3}, "loader": {"num_workers": 0}}
    answers = {"Segmentation": {"output": output}}
    tree["Infer"] = {"PostProcess": answers}
    settings = Recipe.of(tree).settings
    (data,) = build_datasets(settings, ("Eval",)).values()
    network = brightest()
    task = Supervised(network, None)
    found = build_evaluator(settings, task, data, World()).run()

    export_model(network, "there", (3, -1, -1), [*ops, OPS[1]], answers)
    by_files = MeanIoU(3)
    pixels = 0
    with Predictor("there", threads=1) as predictor:
        for image, mask in zip(data.paths, data.masks):
            (result,) = predictor.predict(image)
            truth = cv2.imread(mask, cv2.IMREAD_UNCHANGED)[None]
            answer = decode_map(result["mask"]).astype(np.int32)[None]
            assert answer.shape == truth.shape
            answer[answer == 255] = -1
            pixels += truth.size
            by_files.update(paddle.to_tensor(answer), {"mask": paddle.to_tensor(truth)})
    assert found["miou"] == pytest.approx(by_files.result()["miou"], abs=1e-6)
    assert 0.3 < found["miou"] < (0.9 if way == "cropped" else 1.0)
    assert by_files.areas.truth.sum() == pixels  # nothing is left out

    spec = InferenceSpec("Net", [*ops, OPS[1]], answers, (3, -1, -1), "logits")
    Path("resizing.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")

    def run(images: np.ndarray) -> Outputs:
        return {"logits": network(paddle.to_tensor(images)).numpy()}

    assert by_recipe(spec, "resizing.yaml").scores(run)["miou"] == pytest.approx(found["miou"])


def test_coarse_scores_are_enlarged_before_they_are_scored(home: Path) -> None:
    ask = {"Segmentation": {"output": "coarse"}}
    spec = InferenceSpec("Net", OPS, ask, (3, -1, -1), "logits")
    std, mean = (np.reshape(n, (3, 1, 1)) for n in ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406]))

    def run(images: np.ndarray) -> Outputs:
        return {"logits": (images * std + mean).astype(np.float32)[..., 1::2, 1::2]}

    assert 0.8 < by_recipe(spec, "recipe.yaml").scores(run)["miou"] < 1.0


def test_evaluations_follow_infer(home: Path) -> None:
    tree = yaml.safe_load(Path("recipe.yaml").read_text(encoding="utf-8"))
    tree["Infer"] = {"PostProcess": {"Segmentation": {}}, "tiling": {"size": [64, 32]}}
    for eval_engine in ("dygraph", "auto"):
        tree["Global"]["eval_engine"] = eval_engine
        settings = Recipe.of(tree).settings
        forward = build_forward(settings)
        assert isinstance(forward, ViewedForward) and forward.views.window == (32, 64)
    assert image_shape_of(settings) == (3, 32, 64)
    del tree["Infer"]["tiling"]
    assert not isinstance(build_forward(Recipe.of(tree).settings), ViewedForward)
