"""DeepLabV3+ against the golden values, and over every trunk of the zoo."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.config.check import build, check
from ppcls_lite.config.file import load_config
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.create import cost, create_model, list_models
from ppcls_lite.models.deeplabv3p import DeepLabV3P
from ppcls_lite.models.layers import SqueezeExcitation
from ppcls_lite.models.weights.load import apply_state, write_state
from ppcls_lite.recipe.networks import build_model

ROOT = Path(__file__).resolve().parents[2]
TRUNKS = {"pplcnet_x0_5": "PPLCNet_x0_5", "mobilenetv3_large_x0_5": "MobileNetV3_large_x0_5"}
RATIOS = {"r13_6_9": (1, 3, 6, 9), "r1_12_24_36": (1, 12, 24, 36)}
INPUTS = {"a": (1, 3, 256, 384), "b": (1, 3, 180, 241)}


def golden(
    tag: str, ratios: tuple[int, ...], segmentation: Path, dense_weights: Callable[..., Any]
) -> DeepLabV3P:
    """The network with the weights of the golden values, whose names and shapes are its own."""
    expected = json.loads((segmentation / f"deeplabv3p_{tag}_params.json").read_text())
    model = create_model(f"deeplabv3p_{TRUNKS[tag]}", class_num=19, aspp_ratios=ratios)
    assert [[key, value.shape] for key, value in model.state_dict().items()] == expected["params"]
    assert list(model.backbone.channels) == expected["feat_channels"]
    counts = [cost(part).params for part in (model, model.backbone)]
    assert counts == [expected["n_trainable"], expected["n_backbone_trainable"]]
    apply_state(model, dense_weights(expected["params"]), tag)
    model.eval()
    return model


def near(found: np.ndarray, expected: np.ndarray, tag: str = "pplcnet_x0_5") -> None:
    bound = {"pplcnet_x0_5": 2e-5, "mobilenetv3_large_x0_5": 4e-5}[tag]  # of rounding
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound * max(1, expected.std()))


@pytest.mark.parametrize(("tag", "rates"), [*itertools.product(TRUNKS, RATIOS)])
def test_golden_features_and_logits(
    tag: str,
    rates: str,
    segmentation: Path,
    dense_weights: Callable[..., Any],
    dense_input: Callable[..., np.ndarray],
) -> None:
    values = np.load(segmentation / f"deeplabv3p_{tag}.npz")
    model = golden(tag, RATIOS[rates], segmentation, dense_weights)
    for name, shape in INPUTS.items():
        image = paddle.to_tensor(dense_input(f"seg_{name}", shape))
        with paddle.no_grad():
            stages = model.backbone.forward_stages(image)
            pyramid = model.head.aspp(stages[-1]).numpy()
            low = model.head(stages[0], stages[-1], model.resize).numpy()
            full = model(image).numpy()
        for i, stage in enumerate(stage.numpy() for stage in stages):
            h, w = (max(1, side // 4) for side in stage.shape[2:])
            near(stage[:, :16, ::h, ::w], values[f"{name}_feat{i}_sub"], tag)
            near(stage.mean(axis=(0, 2, 3)), values[f"{name}_feat{i}_mean"], tag)
        at = f"{name}_{rates}"
        near(pyramid[:, ::16], values[f"{at}_aspp_sub"], tag)
        assert list(low.shape) == values[f"{at}_logit_low_shape"].tolist()
        near(low[:, :, ::4, ::4], values[f"{at}_logit_low_sub"], tag)
        assert full.shape == (1, 19, *shape[2:])
        near(full[:, :, ::15, ::15], values[f"{at}_logit_full_sub"], tag)
        near(np.array([full.mean(), full.std()]), values[f"{at}_logit_full_mean_std"], tag)
        counts = np.bincount(full.argmax(axis=1).reshape(-1), minlength=19)
        assert np.abs(counts - values[f"{at}_argmax_hist"]).max() <= 2


@pytest.mark.parametrize(
    "wrong", ["slope", "steep slope", "corners in the decoder", "corners at the end", "one ratio"]
)
def test_the_bound_catches_a_wrong_network(
    wrong: str,
    segmentation: Path,
    dense_weights: Callable[..., Any],
    dense_input: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tag = "mobilenetv3_large_x0_5" if wrong == "steep slope" else "pplcnet_x0_5"
    ratios = (1, 3, 6, 12) if wrong == "one ratio" else (1, 3, 6, 9)
    model = golden(tag, ratios, segmentation, dense_weights)
    image = paddle.to_tensor(dense_input("seg_a", INPUTS["a"]))
    if wrong.endswith("slope"):
        slope = 0.2 if wrong == "slope" else 1 / 6
        gates = [layer for layer in model.sublayers() if isinstance(layer, SqueezeExcitation)]
        for layer in gates:
            monkeypatch.setattr(layer, "_gate", lambda x: F.hardsigmoid(x, slope=slope))
    right = model.resize.forward

    def corners(x: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
        at_end = like.shape[2:] == image.shape[2:]
        if at_end != (wrong == "corners at the end"):
            return right(x, like)
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    if wrong.startswith("corners"):
        monkeypatch.setattr(model.resize, "forward", corners)
    expected = np.load(segmentation / f"deeplabv3p_{tag}.npz")["a_r13_6_9_logit_full_sub"]
    with paddle.no_grad():
        found = model(image).numpy()[:, :, ::15, ::15]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        near(found, expected, tag)


FAMILIES = {entry.family: name for name, entry in reversed(ZOO.items())}
FIXED = "LeViT", "FasterNet"  # patches that are merged, attention over so many places


@pytest.fixture
def nothing_drawn() -> Iterator[None]:
    """Building costs no time: all initial weights are zero."""
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.0))
    yield
    paddle.nn.initializer.set_global_initializer(None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_trunk(family: str, nothing_drawn: None) -> None:
    name, image = f"deeplabv3p_{FAMILIES[family]}", paddle.ones([2, 3, 32, 64])
    if family == "LeViT":
        with pytest.raises(UserError, match="defaults for the output strides 8, 16 and 32"):
            create_model(name, class_num=5)
        return
    model = create_model(name, class_num=5)
    outputs = model(image)
    assert outputs.shape == [2, 5, 32, 64]
    outputs.mean().backward()
    trained = [(n, p) for n, p in model.named_parameters() if not p.stop_gradient]
    assert not [n for n, p in trained if p.grad is None]
    if family in FIXED:
        with pytest.raises(UserError, match=r"backbone\.output_stride: \w+ has no argument"):
            create_model(name, class_num=5, output_stride=8)
        return
    model = create_model(name, class_num=5, output_stride=8)
    assert model.backbone.strides == (4, 8, 8, 8)
    assert model.backbone.forward_stages(image)[-1].shape[2:] == [4, 8]


PARAMETERS = {  # of the trunk, of all; counted from the layers of PaddleSeg's network
    "PPLCNet_x0_5": (270_896, 1_098_003),
    "PPLCNet_x0_75": (584_488, 1_580_811),
    "PPLCNet_x1_0": (1_016_160, 2_181_699),
    "PPLCNet_x1_5": (2_235_792, 3_739_763),
    "PPLCNet_x2_0": (3_929_792, 5_772_195),
    "PPLCNet_x2_5": (6_098_160, 8_278_995),
    "MobileNetV3_large_x0_35": (373_760, 936_515),
    "MobileNetV3_large_x0_5": (738_662, 1_333_385),
    "MobileNetV3_large_x0_75": (1_621_808, 2_269_555),
    "MobileNetV3_large_x1_0": (2_814_886, 3_515_273),
}
MULTIPLY_ADDS = {  # 10^9 at 1024 x 512: trunk, pyramid, decoder
    "PPLCNet_x0_5": (0.450, 0.306, 5.072),
    "PPLCNet_x0_75": (0.971, 0.375, 5.098),
    "PPLCNet_x1_0": (1.605, 0.443, 5.123),
    "MobileNetV3_large_x0_5": (0.654, 0.211, 5.047),
    "MobileNetV3_large_x0_75": (1.427, 0.232, 5.060),
    "MobileNetV3_large_x1_0": (2.178, 0.254, 5.060),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_multiply_adds(name: str, nothing_drawn: None) -> None:
    model = create_model(f"deeplabv3p_{name}", class_num=19)
    # A quarter of the edges: what depends on the size has a sixteenth of the operations.
    shape, pixels = (3, 128, 256), 16
    trunk, whole = cost(model.backbone, shape), cost(model, shape)
    assert (trunk.params, whole.params) == PARAMETERS[name]
    if name in MULTIPLY_ADDS:
        pooled = sum(  # see one pixel at any size
            layer.weight.size
            for path, layer in model.named_sublayers()
            if isinstance(layer, paddle.nn.Conv2D) and (".se." in path or "_se." in path)
        )
        last = model.backbone.channels[-1] * 256
        counts = [(trunk.flops - pooled) * pixels + pooled]
        counts.append((whole.flops - trunk.flops - last) * pixels + last)
        expected = MULTIPLY_ADDS[name]
        assert counts[0] / 1e9 == pytest.approx(expected[0], abs=0.0006)
        assert counts[1] / 1e9 == pytest.approx(sum(expected[1:]), abs=0.0011)


def test_the_usual_ratios_follow_the_output_stride() -> None:
    for stride, ratios in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
        model = create_model("deeplabv3p_PPLCNet_x0_25", class_num=2, output_stride=stride)
        first, *dilated = model.head.aspp.aspp_blocks
        assert first._conv._kernel_size == [1, 1]
        assert [block.depthwise_conv._conv._dilation[0] for block in dilated] == ratios


def test_a_narrow_pyramid_and_decoder() -> None:
    model = create_model("deeplabv3p_PPLCNet_x0_25", class_num=3, aspp_out_channels=64)
    shapes = {name: value.shape for name, value in model.head.state_dict().items()}
    assert shapes["aspp.conv_bn_relu._conv.weight"] == [64, 5 * 64, 1, 1]
    assert shapes["decoder.conv_bn_relu2.piontwise_conv._conv.weight"] == [64, 64 + 48, 1, 1]
    assert shapes["decoder.conv.weight"] == [3, 64, 1, 1]
    wide = create_model("deeplabv3p_PPLCNet_x0_25", class_num=3)
    assert list(wide.state_dict()) == list(model.state_dict())
    costs = [cost(network, (3, 64, 64)).flops for network in (model, wide)]
    assert costs[0] < costs[1] / 4
    model.eval()
    assert model(paddle.zeros([1, 3, 33, 47])).shape == [1, 3, 33, 47]


def test_a_decoder_at_an_eighth() -> None:
    name, image = "deeplabv3p_PPLCNet_x0_25", paddle.randn([2, 3, 64, 96])
    model = create_model(name, class_num=3, low_feature=1)
    low = model.head.decoder.conv_bn_relu1._conv.weight.shape[1]
    assert low == model.backbone.channels[1] != model.backbone.channels[0]
    sizes = []
    model.head.register_forward_post_hook(lambda _, __, out: sizes.append(out.shape[2:]))
    assert model(image).shape == [2, 3, 64, 96] and sizes == [[8, 12]]
    quarter = create_model(name, class_num=3)
    whole, trunk = (
        [cost(m, (3, 64, 96)).flops for m in ms]
        for ms in ((model, quarter), (model.backbone, quarter.backbone))
    )
    assert whole[0] - trunk[0] < (whole[1] - trunk[1]) / 3
    with pytest.raises(
        UserError, match=r"low_feature: the trunk has the features 0 to 3, found \[4"
    ):
        create_model(name, class_num=3, low_feature=4)


def test_one_image_trains_by_running_statistics() -> None:
    """Of one image the pooled branch has one value a channel, whose variance would be 0."""
    model = create_model("deeplabv3p_PPLCNet_x0_25", class_num=3)
    branch = model.head.aspp.global_avg_pool
    norm, found = branch[1]._batch_norm, []
    with paddle.no_grad():
        norm._mean.set_value(paddle.full_like(norm._mean, 0.25))
    before = norm._mean.numpy(), norm._variance.numpy()
    branch.register_forward_post_hook(lambda _, x, out: found.append((x[0], out)))
    model.train()
    model(paddle.randn([1, 3, 64, 96])).mean().backward()
    for kept, now in zip(before, (norm._mean, norm._variance)):
        np.testing.assert_array_equal(kept, now)
    ((x, trained),) = found
    model.eval()
    with paddle.no_grad():
        np.testing.assert_allclose(branch(x), trained, atol=1e-5)
    assert np.abs(branch[1]._conv.weight.grad.numpy()).max() > 0 and np.ptp(trained.numpy()) > 0
    model.train()
    assert norm.training
    model(paddle.randn([2, 3, 64, 96]))
    assert np.abs(norm._mean.numpy() - before[0]).max() > 0  # two images have statistics


def test_auxiliary_heads_answer_in_training_only() -> None:
    model = create_model("deeplabv3p_PPLCNet_x0_25", class_num=3, auxiliary=[2, 1])
    image = paddle.randn([2, 3, 64, 64])
    outputs = model(image)
    assert list(outputs) == ["logits", "aux_0", "aux_1"]
    assert all(value.shape == [2, 3, 64, 64] for value in outputs.values())
    assert model.aux_heads[0].conv_bn_relu._conv.weight.shape[1] == model.backbone.channels[2]
    model.eval()
    assert model(image).shape == [2, 3, 64, 64]
    with pytest.raises(UserError, match=r"auxiliary: the trunk has the features 0 to 3, found \[4"):
        create_model("deeplabv3p_PPLCNet_x0_25", class_num=3, auxiliary=[4])


def test_a_classifier_of_other_classes_is_replaced_on_request(tmp_path: Path) -> None:
    name = "deeplabv3p_PPLCNet_x0_25"
    other = create_model(name, class_num=4)
    file = write_state(tmp_path / "other", other.state_dict())
    model = create_model(name, class_num=3, pretrained=file)
    keys = [k for k in other.state_dict() if not k.startswith("head.decoder.conv.")]
    assert len(keys) == len(other.state_dict()) - 2
    for key in keys:
        np.testing.assert_array_equal(model.state_dict()[key], other.state_dict()[key])
    for change in ("head.decoder.conv_bn_relu1._conv.weight", "head.aspp.conv_bn_relu._conv.bias"):
        state = {k: v.numpy() for k, v in other.state_dict().items() if k != change}
        with pytest.raises(UserError, match=rf"1 missing in the file \({change}\)"):
            apply_state(model, state, "file", replace_head=True)


def test_a_trunk_has_official_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    trunk = create_model("PPLCNet_x0_5")
    write_state(tmp_path / "weights" / "PPLCNet_x0_5_ssld_pretrained", trunk.state_dict())
    name = "deeplabv3p_PPLCNet_x0_5"
    model = create_model(name, class_num=2, pretrained=True, use_ssld=True, output_stride=16)
    for key, value in model.backbone.state_dict().items():
        np.testing.assert_array_equal(value, trunk.state_dict()[key])


def recipe(**arch: Any) -> Any:
    tree = load_config(ROOT / "configs" / "PPLCNet_x0_5.yaml")
    tree["Arch"] = {"class_num": 3, **arch}
    return check(tree)


def test_both_ways_of_a_recipe_are_the_same_network() -> None:
    paddle.seed(5)
    backbone = {"output_stride": 16}
    first = build_model(recipe(name="deeplabv3p_PPLCNet_x0_25", backbone=backbone), training=True)
    paddle.seed(5)
    backbone["name"] = "PPLCNet_x0_25"
    second = build_model(recipe(name="DeepLabV3P", backbone=backbone), training=True)
    assert first.backbone.strides == second.backbone.strides == (4, 8, 16, 16)
    for (key, one), other in zip(first.state_dict().items(), second.state_dict().values()):
        np.testing.assert_array_equal(one, other, err_msg=key)


def test_mistakes_in_a_name_are_explained() -> None:
    cases = {
        r"Arch.backbone.name: deeplabv3p_PPLCNet_x0_25 stands for PPLCNet_x0_25, found 'ResNet50'; "
        "leave it out, or name the network DeepLabV3P": {
            "name": "deeplabv3p_PPLCNet_x0_25",
            "backbone": {"name": "ResNet50"},
        },
        r"Arch.backbone.output_stried: PPLCNet_x0_25 has no argument 'output_stried'; did you "
        "mean": {"name": "deeplabv3p_PPLCNet_x0_25", "backbone": {"output_stried": 8}},
        r"there is no model 'deeplabv3p_PPLCNet_x025'; did you mean 'deeplabv3p_PPLCNet_x0_25'": {
            "name": "deeplabv3p_PPLCNet_x025"
        },
        r"Arch.backbone: is missing; DeepLabV3P needs a model": {"name": "DeepLabV3P"},
        r"Arch.backbone.output_stride: expected 8 or 16 or 32, found 4": {
            "name": "deeplabv3p_PPLCNet_x0_25",
            "backbone": {"output_stride": 4},
        },
    }
    for message, arch in cases.items():
        with pytest.raises(ConfigError, match=message):
            recipe(**arch)
    with pytest.raises(UserError, match=r"backbone: DeepLabV3P is no trunk"):
        inner = {"name": "deeplabv3p_PPLCNet_x0_25"}
        build({"name": "DeepLabV3P", "backbone": inner, "class_num": 2}, "model")
    with pytest.raises(UserError, match=r"strides 8, 16 and 32, the trunk's is 64"):
        backbone = {"name": "PPLCNet", "scale": 0.25, "stride_list": [2, 2, 2, 2, 4]}
        build({"name": "DeepLabV3P", "backbone": backbone, "class_num": 2}, "model")


def test_list_models_names_them() -> None:
    names = list_models("deeplabv3p_*")
    assert names == [f"deeplabv3p_{name}" for name in ZOO]
