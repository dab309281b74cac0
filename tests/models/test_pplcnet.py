"""PP-LCNet's own arguments: the ablation masks, strides, learning-rate factors, head, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import cost, create_model
from ppcls_lite.models.pplcnet import DepthwiseSeparable


def build(**args: Any) -> paddle.nn.Layer:
    return create_model("PPLCNet_x0_25", class_num=3, **args)


def blocks(model: paddle.nn.Layer) -> list[DepthwiseSeparable]:
    return [layer for layer in model.sublayers() if isinstance(layer, DepthwiseSeparable)]


def test_the_default_masks_are_the_papers() -> None:
    se = "".join(str(int(block.se is not None)) for block in blocks(build()))
    kernels = [block.dw_conv.conv.weight.shape[-1] for block in blocks(build())]
    assert se == "0000000000011"
    assert kernels == [3] * 6 + [5] * 7


@pytest.mark.parametrize("mask", ["1100000000000", [0] * 6 + [1] * 2 + [0] * 5, "1" * 13])
def test_masks_place_attention_and_kernels(mask: str | list[int]) -> None:
    expected = [str(digit) == "1" for digit in mask]
    assert [b.se is not None for b in blocks(build(se_mask=mask))] == expected
    kernels = [b.dw_conv.conv.weight.shape[-1] for b in blocks(build(kernel_mask=mask))]
    assert kernels == [5 if one else 3 for one in expected]


@pytest.mark.parametrize("mask", ["11", "1" * 14, "2" * 13, [1.5] * 13])
def test_a_wrong_mask_is_refused(mask: Any) -> None:
    with pytest.raises(UserError, match="se_mask needs 13 digits 0 or 1"):
        build(se_mask=mask)


def test_masks_do_not_leak_between_models() -> None:
    plain = {k: v.shape for k, v in build().state_dict().items()}
    build(se_mask="1" * 13, stride_list=[1, 1, 1, 1, 1])
    assert {k: v.shape for k, v in build().state_dict().items()} == plain
    assert build().strides == (4, 8, 16, 32)


def test_uneven_strides_keep_the_width() -> None:
    model = build(stride_list=[2, [2, 1], [2, 1], [2, 1], [2, 1]])
    model.eval()
    features = model.forward_stages(paddle.zeros([1, 3, 32, 96]))
    assert [f.shape[2:] for f in features] == [[8, 48], [4, 48], [2, 48], [1, 48]]
    assert model.strides == ((4, 2), (8, 2), (16, 2), (32, 2))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"stride_list": [2, 2]}, "stride_list needs 5 entries"),
        ({"stride_list": [2, 2, 2, 2, [1, 1, 1]]}, "stride_list needs 5 entries"),
        ({"lr_mult_list": [1.0]}, "lr_mult_list needs 6 numbers"),
        ({"depths": [1, 2, 2, 2]}, "depths needs 5 numbers"),
        ({"widths": [8] * 6}, "widths needs 5 numbers"),
        ({"depths": [1] * 5, "se_mask": "1" * 13}, "se_mask needs 5 digits"),
    ],
)
def test_lists_of_a_wrong_length_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**args)


def test_learning_rate_factors_reach_their_stage_only() -> None:
    model = build(lr_mult_list=[0.0, 0.2, 0.3, 0.4, 0.5, 0.6])
    found: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if not name.endswith(("_mean", "_variance")):
            rate = parameter.optimize_attr["learning_rate"]
            found.setdefault(name.split(".")[0], set()).add(rate)
    stages = {f"blocks{i}": {i / 10} for i in range(2, 7)}
    assert found == {"conv1": {0.0}, **stages, "last_conv": {1.0}, "fc": {1.0}}


def test_only_batch_norm_is_excluded_from_weight_decay() -> None:
    for name, parameter in build().named_parameters():
        excluded = parameter.regularizer is not None and parameter.regularizer._coeff == 0.0
        assert excluded == (".bn." in name and not name.endswith(("_mean", "_variance"))), name


def test_without_the_last_convolution() -> None:
    model = build(use_last_conv=False)
    assert model.fc.weight.shape == [128, 3]
    assert not any(key.startswith("last_conv") for key in model.state_dict())
    assert model(paddle.zeros([2, 3, 32, 32])).shape == [2, 3]


@pytest.mark.parametrize("probability", [0.0, 0.5, None])
def test_dropout_scales_down_in_inference(probability: float | None) -> None:
    model, plain = build(dropout_prob=probability), build(dropout_prob=0.0)
    plain.set_state_dict(model.state_dict())
    feature = paddle.rand([2, 128, 1, 1])
    model.eval(), plain.eval()
    bias = model.fc.bias.numpy()
    scaled = (model.forward_head(feature).numpy() - bias) * (1 / (1 - (probability or 0)))
    np.testing.assert_allclose(
        scaled, plain.forward_head(feature).numpy() - bias, rtol=1e-4, atol=1e-5
    )


def test_activation_is_everywhere_but_in_the_attention() -> None:
    kinds = {type(layer).__name__ for layer in build(act="relu").sublayers()}
    assert "Hardswish" not in kinds and "ReLU" in kinds


def test_ablations_cost_what_the_paper_says_about_them() -> None:
    """Attention and large kernels are cheap; the last convolution is most of the parameters."""
    full = cost(create_model("PPLCNet_x0_5"))
    no_se = cost(create_model("PPLCNet_x0_5", se_mask="0" * 13))
    small_kernels = cost(create_model("PPLCNet_x0_5", kernel_mask="0" * 13))
    no_last = cost(create_model("PPLCNet_x0_5", use_last_conv=False))
    assert full.params - no_se.params == sum(
        2 * c * (c // 4) + c + c // 4 for c in (128, 256)
    )  # two 1x1 convolutions with bias at the inputs of the last two blocks
    assert full.params - small_kernels.params == 16 * (128 * 6 + 256)
    assert full.params - no_last.params == 256 * 1280 + (1280 - 256) * 1000


def test_depths_and_widths_make_other_networks() -> None:
    model = create_model("PPLCNet", class_num=3, depths=[1, 1, 3, 2, 1], widths=[8, 20, 24, 32, 40])
    stages = [getattr(model, name) for name in model.stage_names]
    assert [len(stage) for stage in stages] == [1, 1, 3, 2, 1]
    assert [block.se is not None for block in blocks(model)] == [False] * 7 + [True]
    kernels = [block.dw_conv.conv.weight.shape[-1] for block in blocks(model)]
    assert kernels == [3] * 6 + [5] * 2  # 5x5 after the first of blocks5
    assert model.channels == (24, 24, 32, 40)  # multiples of 8
    model.eval()
    features = model.forward_stages(paddle.zeros([1, 3, 64, 64]))
    assert [f.shape[1:] for f in features] == [[24, 16, 16], [24, 8, 8], [32, 4, 4], [40, 2, 2]]


def test_the_default_depths_and_widths_are_the_papers() -> None:
    paddle.seed(3)
    plain = build().state_dict()
    paddle.seed(3)
    stated = build(depths=[1, 2, 2, 6, 2], widths=[32, 64, 128, 256, 512]).state_dict()
    assert [*plain] == [*stated]
    for key, value in plain.items():
        np.testing.assert_array_equal(value.numpy(), stated[key].numpy())
