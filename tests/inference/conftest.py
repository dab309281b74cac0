"""An exported PPLCNet_x0_25 with five classes, and some pictures to classify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.inference.export import ExportReport, export_model
from ppcls_lite.models.create import create_model

LABELS = ["cat", "great dog", "Vögel", "猫", "yes"]  # spaces, non-Latin letters, a YAML boolean


def sensitive(network: nn.Layer) -> nn.Layer:
    """Random weights whose answers depend on the image.

    Batch normalisation takes its statistics from one batch of pictures, so that no layer's
    activations fade; the classifier is scaled until the logits differ by about two.
    """
    images = np.stack([tiles(seed, 64, 64) for seed in range(16)]) / 64.0 - 2
    images = paddle.to_tensor(images.transpose(0, 3, 1, 2).astype(np.float32))  # (16, 3, 64, 64)
    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):
            layer._momentum = 0.0
    network.train()
    network(images)
    network.eval()
    classifier = [layer for layer in network.sublayers() if isinstance(layer, nn.Linear)][-1]
    spread = float(network(images).std(axis=0).mean())  # over the images
    classifier.weight.set_value(classifier.weight * (2 / spread))
    return network


def tiles(seed: int, height: int, width: int) -> np.ndarray:
    """A picture of 5 x 7 coloured tiles, (height, width, 3) uint8."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_NEAREST)


def transforms(size: int = 64) -> list[Any]:
    return [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"ResizeImage": {"resize_short": size + 8}},
        {"CropImage": {"size": size}},
        {"NormalizeImage": {"scale": "1.0/255.0", "order": ""}},
        {"ToCHWImage": None},
    ]


@pytest.fixture(scope="session")
def network_of() -> Callable[..., nn.Layer]:
    """`network_of(name, class_num, ...)`: a network of the zoo with `sensitive` weights."""

    def make(name: str, class_num: int, **args: Any) -> nn.Layer:
        paddle.seed(1)
        return sensitive(create_model(name, class_num=class_num, **args))

    return make


@pytest.fixture
def sensitive_lines() -> nn.Layer:
    """A PP-LCNet with the strides of networks for lines of text, and `sensitive` weights."""
    paddle.seed(1)
    strides = [2, [2, 1], [2, 1], [2, 1], [2, 1]]
    return sensitive(create_model("PPLCNet_x0_25", class_num=5, stride_list=strides))


@pytest.fixture(scope="session")
def chain() -> Callable[[int], list[Any]]:
    return transforms


@dataclass
class Exported:
    folder: Path
    network: nn.Layer
    report: ExportReport


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, network_of: Any) -> Exported:
    network = network_of("PPLCNet_x0_25", 5)
    folder = tmp_path_factory.mktemp("export") / "inference"
    report = export_model(
        network,
        folder,
        image_shape=(3, 64, 64),
        transforms=transforms(),
        postprocess={"Topk": {"topk": 3}},
        labels=LABELS,
        model_name="PPLCNet_x0_25",
    )
    return Exported(folder, network, report)


@pytest.fixture(scope="session")
def exported_both(tmp_path_factory: pytest.TempPathFactory, network_of: Any) -> Exported:
    """Like `exported`, with `inference.onnx` beside Paddle's program."""
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    network = network_of("PPLCNet_x0_25", 5)
    folder = tmp_path_factory.mktemp("both") / "inference"
    shape, size = (3, 64, 64), transforms()
    report = export_model(network, folder, shape, size, {"Topk": {}}, LABELS, format="both")
    return Exported(folder, network, report)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with four readable pictures, one of them deeper, and a text file."""
    folder = tmp_path / "pictures"
    (folder / "more of them").mkdir(parents=True)
    for index, name in enumerate(["a.png", "b.JPG", "ü 1.bmp", "more of them/c.jpeg"]):
        _, data = cv2.imencode(Path(name).suffix, tiles(index, 100, 140))
        (folder / name).write_bytes(data.tobytes())
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder
