"""The whole zoo: stages, strides, head, trunk alone; each family: training, taps, export."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config import registry
from ppcls_lite.config.zoo import OVER_TRUNKS, ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.create import create_model, list_models

# The cheapest network of each family, and of each variant with code of its own.
SMALLEST = [
    "PPLCNet_x0_25",
    "PPLCNetV2_small",
    "MobileNetV1_x0_25",
    "MobileNetV2_x0_25",
    "MobileNetV3_small_x0_35",
    "MobileNetV3_large_x0_35",
    "ShuffleNetV2_x0_25",
    "ResNet18_vd",
    "ResNet50",
    "PPLCNetV3_x0_5",
    "PPLCNetV4_tiny",
    "MobileNetV4_conv_small",
    "PPHGNetV2_B0",
    "StarNet_S1",
    "FasterNet_T0",
    "LeViT_128S",
]


# The others follow from the same code; they take minutes, so they are run when asked for.
ON_REQUEST = pytest.mark.skipif(
    not os.environ.get("PPCLS_LITE_WHOLE_ZOO"), reason="PPCLS_LITE_WHOLE_ZOO=1 runs all networks"
)
CLASSIFIERS = [name for name, entry in ZOO.items() if entry.classifies]
WHOLE_ZOO = [pytest.param(n, marks=[] if n in SMALLEST else ON_REQUEST) for n in CLASSIFIERS]
SIZE = 64


def create(name: str, **args: Any) -> Backbone:
    """A network for images of 64 x 64."""
    if "img_size" in (a.name for a in registry.entries()["model", name].arguments):
        args["img_size"] = SIZE
    return create_model(name, **args)


@pytest.fixture
def image() -> paddle.Tensor:
    pixels = np.random.RandomState(0).standard_normal((2, 3, 64, 64)).astype("float32")
    return paddle.to_tensor(pixels)


@pytest.fixture
def nothing_drawn() -> Iterator[None]:
    """Building costs no time: all initial weights are zero."""
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.0))
    yield
    paddle.nn.initializer.set_global_initializer(None)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_stages_and_head(name: str, image: paddle.Tensor, nothing_drawn: None) -> None:
    model = create(name, class_num=7)
    model.eval()
    with paddle.no_grad():
        features = model.forward_stages(image)
        assert model(image).shape == [2, 7]
        assert model.forward_head(features[-1]).shape == [2, 7]
    expected = [[2, c, SIZE // s, SIZE // s] for c, s in zip(model.channels, model.strides)]
    assert [feature.shape for feature in features] == expected
    assert model.strides == ((16, 32, 64) if name.startswith("LeViT") else (4, 8, 16, 32))


@pytest.mark.parametrize("name", [name for name in ZOO if name not in CLASSIFIERS])
def test_trunks_of_ocr(name: str, nothing_drawn: None) -> None:
    """Four features for a detector; for a recogniser one row of the last one, half as wide."""
    model = create_model(name)
    model.eval()
    with paddle.no_grad():
        features = model.forward_stages(paddle.zeros([1, 3, 64, 96]))
    assert [feature.shape[1] for feature in features] == list(model.channels)
    pairs = [s if isinstance(s, tuple) else (s, s) for s in model.strides]
    sizes = [[max(1, 64 // height), 96 // width] for height, width in pairs]
    assert [feature.shape[2:] for feature in features] == sizes
    assert sizes[-1] == ([1, 12] if "_rec_" in name else [2, 3])


def test_a_form_without_classes_is_given_none() -> None:
    for family in ("PPLCNetV3", "PPLCNetV4"):
        with pytest.raises(UserError, match="form det has no classifier; set class_num to 0"):
            create_model(family, class_num=2, form="det")


def test_levit_names_the_size_it_is_made_for() -> None:
    model = create_model("LeViT_128S", class_num=2, img_size=32)
    with pytest.raises(UserError, match="made for images of 32 x 32, found 64 x 64; set img_size"):
        model(paddle.zeros([1, 3, 64, 64]))


@pytest.mark.parametrize("name", SMALLEST)
def test_trunk_alone(name: str, image: paddle.Tensor) -> None:
    trunk, whole = create(name, class_num=0), create(name, class_num=5)
    edge = SIZE // trunk.strides[-1]
    assert trunk(image).shape == [2, trunk.channels[-1], edge, edge]
    dropped = set(whole.state_dict()) - set(trunk.state_dict())
    assert {key.split(".")[0] for key in dropped} == set(whole.head_layers)
    assert set(trunk.state_dict()) < set(whole.state_dict())


@pytest.mark.parametrize("name", WHOLE_ZOO)
def test_one_training_step_reaches_every_parameter(name: str, image: paddle.Tensor) -> None:
    paddle.seed(3)
    model = create(name, class_num=4)
    model.train()
    parameters = [(n, p) for n, p in model.named_parameters() if not p.stop_gradient]
    for key, parameter in parameters:  # branches that start at zero hide what is behind them
        if key.endswith(".weight") and not parameter.any():
            parameter.set_value(paddle.full_like(parameter, 0.5))
    before = {n: p.numpy() for n, p in parameters}
    optimizer = paddle.optimizer.SGD(0.5, parameters=[p for _, p in parameters])
    loss = paddle.nn.functional.cross_entropy(model(image), paddle.to_tensor([1, 3]))
    loss.backward()
    assert not [n for n, p in parameters if p.grad is None]
    optimizer.step()
    moved = [n for n, p in parameters if not np.array_equal(before[n], p.numpy())]
    assert len(moved) > 0.9 * len(parameters)  # a dead ReLU may leave single ones where they are
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("name", SMALLEST)
def test_return_stages_gives_named_features(name: str, image: paddle.Tensor) -> None:
    model = create(name, class_num=3, return_stages=True)
    model.eval()
    outputs = model(image)
    assert list(outputs) == ["logits", *model.stage_names]
    last, feature = outputs[model.stage_names[-1]], model.forward_stages(image)[-1]
    if last.ndim == 3:  # tokens (N, T, C)
        last = last.transpose([0, 2, 1]).reshape(feature.shape)
    np.testing.assert_array_equal(last.numpy(), feature.numpy())
    np.testing.assert_array_equal(outputs["logits"].numpy(), model.forward_head(last).numpy())
    model.clear_taps()
    np.testing.assert_array_equal(model(image).numpy(), outputs["logits"].numpy())


def test_return_patterns() -> None:
    image = paddle.zeros([1, 3, 32, 32])
    model = create_model("PPLCNet_x0_25", class_num=3, return_patterns=["blocks5[1]", "conv1"])
    model.eval()
    outputs = model(image)
    assert outputs["blocks5[1]"].shape == [1, 64, 2, 2]
    assert outputs["conv1"].shape == [1, 8, 16, 16]
    with pytest.raises(UserError, match=r"no sublayer 'blocks9'; it has conv1, blocks2"):
        create_model("PPLCNet_x0_25", return_patterns=["blocks9"])
    with pytest.raises(UserError, match=r"has the stages 0\.\.4, got \[5\]"):
        create_model("PPLCNet_x0_25", return_stages=[5])


@pytest.mark.parametrize("name", WHOLE_ZOO)
def test_exported_with_mkldnn_equals_dygraph(
    name: str, image: paddle.Tensor, tmp_path: Path
) -> None:
    paddle.seed(1)
    model = create(name, class_num=6)
    model(image)  # running statistics that are not the initial ones
    model.eval()
    with paddle.no_grad():
        expected = model(image).numpy()
    model.reparameterize()
    spec = [paddle.static.InputSpec([None, 3, 64, 64], "float32", "x")]
    paddle.jit.save(model, str(tmp_path / "inference"), input_spec=spec)
    config = paddle.inference.Config(
        str(tmp_path / "inference.json"), str(tmp_path / "inference.pdiparams")
    )
    config.disable_glog_info()
    config.disable_gpu()
    config.enable_mkldnn()
    predictor = paddle.inference.create_predictor(config)
    predictor.get_input_handle("x").copy_from_cpu(image.numpy())
    predictor.run()
    output = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    assert np.abs(output - expected).max() / np.abs(expected).max() < 1e-4


# Those in which no part sees the whole image, and no shortcut is pooled.
LOCAL = [
    *("MobileNetV1_x0_25", "MobileNetV2_x0_25", "ShuffleNetV2_x0_25", "ResNet18"),
    *("MobileNetV4_conv_small", "PPHGNetV2_B0", "StarNet_S1"),
]
UNDILATED = ("ResNet50", "FasterNet_T0", "LeViT_128S")


@pytest.mark.parametrize(
    "name", [*(name for name in SMALLEST if name not in UNDILATED), "ResNet18"]
)
def test_dilation_gives_the_same_values_at_more_places(name: str, image: paddle.Tensor) -> None:
    paddle.seed(2)
    output_stride = 8
    plain = create_model(name, class_num=0)
    plain(image)  # running statistics that are not the initial ones
    dense = create_model(name, class_num=0, output_stride=output_stride)
    dense.set_state_dict(plain.state_dict())
    assert list(dense.state_dict()) == list(plain.state_dict())
    assert dense.strides == tuple(min(s, output_stride) for s in plain.strides)
    plain.eval(), dense.eval()
    with paddle.no_grad():
        pairs = list(zip(plain.forward_stages(image), dense.forward_stages(image)))
    assert [d.shape[2] for _, d in pairs] == [64 // stride for stride in dense.strides]
    if name not in LOCAL:
        return
    for expected, found in pairs:
        step = found.shape[2] // expected.shape[2]
        difference = (found[:, :, ::step, ::step] - expected).abs().max()
        assert float(difference) < 1e-5 * float(expected.abs().max())


def test_upstream_dilations_of_mobilenet_v3() -> None:
    dilations = {"large": [1] * 7 + [2] * 6 + [4] * 2, "small": [1] * 4 + [2] * 5 + [4] * 2}
    for size, expected in dilations.items():
        model = create_model(f"MobileNetV3_{size}_x0_35", class_num=0, output_stride=8)
        convs = [block.bottleneck_conv.conv for block in model.blocks]
        assert [conv._dilation[0] for conv in convs] == expected
        assert [c._updated_padding[0] // (c._kernel_size[0] // 2) for c in convs] == expected


def test_a_merged_branch_keeps_its_dilation(image: paddle.Tensor) -> None:
    model = create_model("PPLCNetV2_small", class_num=0, output_stride=8)
    model(image)
    model.eval()
    before = model(image).numpy()
    assert model.reparameterize() > 0
    np.testing.assert_allclose(model(image).numpy(), before, rtol=1e-3, atol=1e-4)


def test_strides_of_two_numbers_have_no_output_stride() -> None:
    pairs = [2, [2, 1], [2, 1], [2, 1], [2, 1]]
    model = create_model("PPLCNet", scale=0.25, class_num=0, stride_list=pairs)
    assert model.strides == ((4, 2), (8, 2), (16, 2), (32, 2))
    with pytest.raises(UserError, match=r"output_stride: expected the same strides .*\[2, 1\]"):
        create_model("PPLCNet", class_num=0, stride_list=pairs, output_stride=16)
    odd = create_model("PPLCNet", scale=0.25, class_num=0, stride_list=[2, 2, 3, 2, 2])
    assert odd.strides == (4, 12, 24, 48)
    odd = create_model(
        "PPLCNet", scale=0.25, class_num=0, stride_list=[2, 2, 3, 2, 2], output_stride=8
    )
    assert odd.strides == (4, 4, 8, 8)


def test_student_and_teacher_of_one_family_in_one_process() -> None:
    wide, narrow = create_model("PPLCNet_x2_5", class_num=0), create_model("PPLCNet_x0_25")
    again = create_model("PPLCNet_x2_5", class_num=0)
    shapes = {key: value.shape for key, value in wide.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}
    assert narrow.conv1.conv.weight.shape[0] == 8
    names = [p.name for m in (wide, narrow, again) for p in m.parameters()]
    assert len(names) == len(set(names))


def test_names() -> None:
    assert list_models("PPLCNet_*") == [n for n in ZOO if n.startswith("PPLCNet_")]
    assert len(ZOO) == 86
    assert list_models() == [*ZOO, *(f"{p}_{name}" for p in OVER_TRUNKS for name in ZOO)]
    with pytest.raises(UserError, match="unknown model 'PPLCNet_0_5'; did you mean 'PPLCNet_x0_5'"):
        create_model("PPLCNet_0_5")
    with pytest.raises(UserError, match="has no argument 'dropout'; did you mean 'dropout_prob'"):
        create_model("PPLCNet_x0_5", dropout=0.1)
    with pytest.raises(UserError, match=r"stands for scale=0\.5; use the family 'PPLCNet'"):
        create_model("PPLCNet_x0_5", scale=1.0)
    assert create_model("PPLCNet", class_num=0, scale=0.1).channels == (8, 16, 24, 48)
