"""Grey, transparent and multispectral images: from the file to the answer of the exported model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from experiments.image_kinds import tiff
from ppcls_lite.config.file import load_config
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.train import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DECODED = {1: 3, 4: 4, 6: 6}  # channels of the network -> of the decoder


def save(path: Path, image: np.ndarray) -> Path:
    """A PNG with transparency, a TIFF of more bands, or for every second image an array of them."""
    if image.shape[2] <= 4:
        path = path.with_suffix(".png")
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    elif int(path.name) % 2 or find_spec("tifffile") is None:
        path = path.with_suffix(".npy")
        np.save(path, image)
    else:
        path = path.with_suffix(".tif")
        extra = [0] * (image.shape[2] - 3)  # unspecified samples
        path.write_bytes(tiff(image, "<", {338: extra}))
    return path


def recipe(folder: Path, channels: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(8):
        pixels = rng.integers(0, 100, (24, 24, DECODED[channels]), np.uint8) + np.uint8(
            150 * (i % 2)
        )
        lines.append(f"{save(folder / str(i), pixels).name} {i % 2}\n")
    (folder / "list.txt").write_text("".join(lines))
    tree = load_config(CONFIGS / "quickstart" / "digits.yaml")
    tree["Arch"] |= {"in_channels": channels, "class_num": 2}
    numbers = {"mean": [0.5] * channels, "std": [0.5] * channels, "order": ""}
    ops = [
        {"DecodeImage": {"channels": DECODED[channels]}},
        {"RandCropImage": {"size": 32, "scale": [0.6, 1.0]}},
        {"RandFlipImage": {"flip_code": 1}},
        *([{"ToGray": None}] if channels == 1 else []),
        {"NormalizeImage": numbers},
    ]
    still = [ops[0], {"ResizeImage": {"size": 32}}, *ops[3:]]
    for split, chain in (("Train", ops), ("Eval", still)):
        section = tree["DataLoader"][split]
        section["loader"] = {"num_workers": 0}
        section["sampler"] |= {"batch_size": 4}
        section["dataset"] = {
            "name": "ImageNetDataset",
            "image_root": str(folder),
            "cls_label_path": str(folder / "list.txt"),
            "transform_ops": chain,
        }
    tree["Infer"].pop("transforms", None)
    tree["Infer"]["PostProcess"] = {"name": "Topk", "topk": 1}
    tree["Global"] |= {"epochs": 1, "device": "cpu", "use_visualdl": False}
    tree["Global"] |= {"output_dir": str(folder), "save_inference_dir": str(folder / "exported")}
    return tree


@pytest.mark.parametrize("channels", DECODED)
def test_from_the_file_to_the_answer(channels: int, tmp_path: Path) -> None:
    tree = recipe(tmp_path, channels)
    run_dir = train(tree).run_dir
    tree["Global"]["pretrained_model"] = str(run_dir / "latest")
    report = export(tree, "both")
    files = sorted(str(path) for path in tmp_path.glob("?.*") if path.stem.isdigit())
    assert len(files) == 8
    scores = {}
    for engine in ("paddle", "openvino", "onnxruntime"):
        predictor = Predictor(report.folder, engine=engine)
        assert predictor.spec.image_shape[0] == channels
        answers = list(predictor.predict(files))
        assert all(answer["class_ids"][0] in (0, 1) for answer in answers)
        scores[engine] = [answer["scores"][0] for answer in answers]
    np.testing.assert_allclose(scores["openvino"], scores["paddle"], atol=1e-4)
    np.testing.assert_allclose(scores["onnxruntime"], scores["paddle"], atol=1e-4)
