"""Teachers from files: an exported folder and an ONNX file answer as the network they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from ppcls_lite.config import registry
from ppcls_lite.config.check import build
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.distill.inference_model import InferenceModel
from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model

CLASSES, SIZE = 5, 32
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def pixels(count: int = 6, size: int = SIZE) -> np.ndarray:
    """Pictures of coloured tiles, (N, C, H, W) float32 from 0 to 255."""
    rng = np.random.default_rng(3)
    tiles = [rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(count)]
    tiles = [cv2.resize(tile, (size, size), interpolation=cv2.INTER_NEAREST) for tile in tiles]
    return np.stack(tiles).astype(np.float32).transpose(0, 3, 1, 2)


def normalized(images: np.ndarray, **arguments: Any) -> paddle.Tensor:
    normalizer = NormalizeImage(**arguments).normalizer
    shape = (-1, 1, 1)
    array = images * normalizer.factor.reshape(shape) + normalizer.offset.reshape(shape)
    return paddle.to_tensor(array)


class Small(nn.Layer):
    """A network of two layers, whose answers differ from picture to picture."""

    def __init__(self, strength: float = 4.0, seed: int = 0) -> None:
        super().__init__()
        paddle.seed(seed)
        self.conv = nn.Conv2D(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, CLASSES)
        self.fc.weight.set_value(self.fc.weight * strength)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        feature = nn.functional.relu(self.conv(images))  # (N, 8, h, w)
        return self.fc(feature.mean(axis=[2, 3]))  # (N, CLASSES)


@pytest.fixture(scope="module")
def network() -> nn.Layer:
    network = Small()
    network.eval()
    return network


def exported(network: nn.Layer, folder: Path, **options: Any) -> Path:
    chain = [
        {"DecodeImage": {}},
        {"ResizeImage": {"size": SIZE}},
        {"NormalizeImage": {"order": "", **HALF}},
        {"ToCHWImage": None},
    ]
    options = {"image_shape": (3, SIZE, SIZE), "transforms": chain} | options
    export_model(network, folder, **options)
    return folder


@pytest.fixture(scope="module")
def folder(network: nn.Layer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(network, tmp_path_factory.mktemp("teacher") / "inference")


def softmax(logits: paddle.Tensor | np.ndarray) -> np.ndarray:
    powers = np.exp(np.asarray(logits) - np.max(np.asarray(logits), axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_a_folder_with_softmax_answers_like_its_network(network, folder):
    teacher = InferenceModel(str(folder), class_num=CLASSES)
    images = normalized(pixels(), **HALF)
    with paddle.no_grad():
        expected = softmax(network(images))
    assert expected.std(axis=0).max() > 0.01  # the pictures do differ
    answers = teacher(images)
    assert answers.shape == [6, CLASSES] and answers.dtype == paddle.float32
    assert teacher.gives_probabilities and answers.stop_gradient
    np.testing.assert_allclose(softmax(answers), expected, atol=1e-5)
    assert list(teacher.parameters()) == [] and teacher.state_dict() == {}
    teacher.train()
    np.testing.assert_array_equal(teacher(images).numpy(), answers.numpy())


def test_a_folder_with_logits_gives_them_as_they_are(network, tmp_path):
    teacher = InferenceModel(str(exported(network, tmp_path / "logits", add_softmax=False)))
    images = normalized(pixels(), **HALF)
    with paddle.no_grad():
        expected = network(images).numpy()
    assert not teacher.gives_probabilities and teacher.class_num == CLASSES
    np.testing.assert_allclose(teacher(images).numpy(), expected, atol=1e-4, rtol=1e-4)


def test_a_certain_teacher_gives_finite_logits(tmp_path):
    certain = Small(strength=1e4)
    certain.eval()
    teacher = InferenceModel(str(exported(certain, tmp_path / "certain")))
    images = normalized(pixels(), **HALF)
    answers = teacher(images).numpy()
    assert np.isfinite(answers).all() and answers.min() < -80
    with paddle.no_grad():
        np.testing.assert_allclose(softmax(answers), softmax(certain(images)), atol=1e-4)


def test_other_normalisations_of_the_recipe(network, folder):
    teacher = InferenceModel(str(folder))
    answers = teacher(normalized(pixels(), **HALF)).numpy()
    half = NormalizeImage(order="", **HALF).normalizer
    assert "was made for the recipe's normalisation" in teacher.expect(half)
    np.testing.assert_array_equal(teacher(normalized(pixels(), **HALF)).numpy(), answers)
    assert "re-normalised" in teacher.expect(NormalizeImage(order="").normalizer)
    np.testing.assert_allclose(teacher(normalized(pixels())).numpy(), answers, atol=1e-3)
    assert np.abs(teacher(normalized(pixels(), **HALF)).numpy() - answers).max() > 0.1
    assert "re-normalised" in teacher.expect(None)
    np.testing.assert_allclose(teacher(paddle.to_tensor(pixels())).numpy(), answers, atol=1e-3)


def test_half_precision_and_another_size(folder):
    teacher = InferenceModel(str(folder))
    images = normalized(pixels(), **HALF)
    full = teacher(images).numpy()
    half = teacher(images.astype("bfloat16"))
    assert half.dtype == paddle.float32
    assert softmax(half).argmax(axis=1).tolist() == softmax(full).argmax(axis=1).tolist()
    with pytest.raises(UserError, match=r"takes images of shape \[3, 32, 32\].*\[3, 64, 64\]"):
        teacher(paddle.zeros([1, 3, 64, 64]))


def test_what_cannot_teach_is_refused(network, folder, tmp_path):
    with pytest.raises(UserError, match="gives 5 classes, but class_num is 10"):
        InferenceModel(str(folder), class_num=10)
    with pytest.raises(UserError, match="no such folder"):
        InferenceModel(str(tmp_path / "nowhere"))
    many = {"MultiLabelThreshOutput": {"threshold": 0.5}}
    attributes = exported(network, tmp_path / "attributes", postprocess=many)
    with pytest.raises(UserError, match="several attributes"):
        InferenceModel(str(attributes))
    other = exported(network, tmp_path / "other")
    spec = yaml.safe_load((other / "inference.yml").read_text(encoding="utf-8"))
    whole = spec["PreProcess"]["transform_ops"]

    def rewritten(ops: list[Any]) -> str:
        spec["PreProcess"]["transform_ops"] = ops
        (other / "inference.yml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        return str(other)

    with pytest.raises(UserError, match="BGR"):
        InferenceModel(rewritten([{"DecodeImage": {"to_rgb": False}}, *whole]))
    with pytest.raises(UserError, match="no NormalizeImage"):
        InferenceModel(rewritten(whole[:1]))
    assert InferenceModel(rewritten(whole[:1]), **HALF).normalizer.mean.tolist() == HALF["mean"]


def test_two_softmaxes_or_none_are_noticed(network, folder, tmp_path):
    with pytest.raises(UserError, match="gives probabilities already"):
        InferenceModel(str(folder), output="logits")
    other = exported(network, tmp_path / "other", add_softmax=False)
    path = other / "inference.yml"
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    del spec["Global"]["output"]
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(UserError, match="should give the probabilities of a softmax"):
        InferenceModel(str(other))


def test_the_checksum_follows_the_weights(network, folder, tmp_path):
    again = InferenceModel(str(folder)).checksum()
    assert again == InferenceModel(str(folder)).checksum()
    other = exported(Small(seed=5), tmp_path / "other")
    assert InferenceModel(str(other)).checksum() != again


def test_by_name_without_importing_it(folder):
    entry = registry.entries()["model", "InferenceModel"]
    assert {"path", "class_num", "output"} <= {a.name for a in entry.arguments}
    teacher = build({"name": "InferenceModel", "path": str(folder), "class_num": 5}, "model")
    assert teacher.class_num == CLASSES


def linear_onnx(path: Path, softmaxed: bool = False, batch: int | str = "N") -> np.ndarray:
    """Write global average pooling and a linear layer; returns its weights (3, CLASSES)."""
    onnx = pytest.importorskip("onnx", reason="writing an ONNX file needs onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)
    names = ["logits", "answer"] if softmaxed else ["answer"]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], [names[0]]),
    ]
    if softmaxed:
        nodes.append(helper.make_node("Softmax", ["logits"], ["answer"], axis=1))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", kind, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("answer", kind, [batch, CLASSES])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return weights


@pytest.mark.parametrize("softmaxed", [False, True])
def test_an_onnx_file(tmp_path, softmaxed):
    pytest.importorskip("onnxruntime", reason="running an ONNX file needs onnxruntime")
    weights = linear_onnx(tmp_path / "teacher.onnx", softmaxed)
    teacher = InferenceModel(str(tmp_path / "teacher.onnx"), class_num=CLASSES)
    assert teacher.gives_probabilities is softmaxed
    images = normalized(pixels())
    expected = images.numpy().mean(axis=(2, 3)) @ weights
    np.testing.assert_allclose(softmax(teacher(images)), softmax(expected), atol=1e-5)
    assert "as the recipe normalises" in teacher.expect(NormalizeImage(order="").normalizer)
    if softmaxed:
        return
    np.testing.assert_allclose(teacher(images).numpy(), expected, atol=1e-5)
    other = InferenceModel(str(tmp_path / "teacher.onnx"), **HALF)
    assert "re-normalised" in other.expect(NormalizeImage(order="").normalizer)
    expected = normalized(pixels(), **HALF).numpy().mean(axis=(2, 3)) @ weights
    np.testing.assert_allclose(other(images).numpy(), expected, atol=1e-4)


def test_onnx_files_that_cannot_teach(tmp_path):
    pytest.importorskip("onnxruntime", reason="running an ONNX file needs onnxruntime")
    linear_onnx(tmp_path / "one.onnx", batch=1)
    with pytest.raises(UserError, match="batches of 1 only"):
        InferenceModel(str(tmp_path / "one.onnx"))
    (tmp_path / "torn.onnx").write_bytes((tmp_path / "one.onnx").read_bytes()[:100])
    with pytest.raises(UserError, match="is not an ONNX file, or is damaged"):
        InferenceModel(str(tmp_path / "torn.onnx"))
    with pytest.raises(UserError, match="no such file"):
        InferenceModel(str(tmp_path / "none.onnx"))
