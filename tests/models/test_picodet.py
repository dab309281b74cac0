"""PicoDet against PaddleDetection's values, names, sizes and weight decay, and as a program."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.shipped import Shipped, save_program
from ppcls_lite.models.create import cost, create_model
from ppcls_lite.models.picodet import PicoDet
from ppcls_lite.models.weights.load import apply_state, load_weights, write_state

GOLDEN = Path(__file__).parents[1] / "fixtures" / "detection"
CASES = {
    "v2_lcnet_x0_5": ("PPLCNet_x0_5", 2),
    "legacy_lcnet_x0_5": ("PPLCNet_x0_5", 1),
    "legacy_mobilenetv3_large_x0_35": ("MobileNetV3_large_x0_35", 1),
}


def make(trunk: str, generation: int, width: int = 0, convs: int = 0, **more: Any) -> PicoDet:
    """A PicoDet of the first or second generation."""
    neck, head = [("CSPPAN", "PicoHead"), ("LCPAN", "PicoHeadV2")][generation - 1]
    spec = {
        "backbone": {"name": trunk},
        "neck": {"name": neck, "out_channels": width or (128, 96)[generation - 1]},
        "head": {"name": head, **({"num_convs": convs} if convs else {})},
    }
    return build({"PicoDet": spec | more}, "model", class_num=more.get("class_num", 80))


def official(case: str) -> dict[str, np.ndarray]:
    """A file as PaddleDetection writes it: the values of the fixtures, a function of the names."""
    known = json.loads((GOLDEN / f"picodet_{case}_params.json").read_text(encoding="utf-8"))
    state = {name: _value(name, shape, case) for name, shape in known["params"]}
    return state | {
        f"head.p{level}_feat.scale_reg": np.ones(1, np.float32) for level in range(3, 7)
    }


def _value(name: str, shape: list[int], case: str) -> np.ndarray:
    if "distribution_project" in name:
        return np.arange(8, dtype=np.float32)
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape)
    if name.endswith("_variance"):
        drawn = 1 + 0.1 * abs(drawn)
    elif name.endswith(("_mean", "bias")):
        drawn = 0.05 * drawn
    elif len(shape) == 1:
        drawn = 1 + 0.05 * drawn
    else:
        gain = 2 if name.startswith("backbone.") and "mobilenet" in case else 3
        drawn = drawn * np.sqrt(gain / np.prod(shape[1:]))
    return drawn.astype(np.float32)


def image() -> paddle.Tensor:
    drawn = np.random.RandomState(zlib.crc32(b"input:det_a")).standard_normal((1, 3, 160, 192))
    return paddle.to_tensor((drawn * 0.5).astype(np.float32))


@pytest.fixture(scope="module", params=CASES)
def known(request: pytest.FixtureRequest) -> tuple[str, PicoDet]:
    model = make(*CASES[request.param])
    apply_state(model, official(request.param), request.param)
    model.eval()
    return request.param, model


@paddle.no_grad()
def test_every_part_gives_paddle_detections_values(known: tuple[str, PicoDet]) -> None:
    case, model = known
    golden = np.load(GOLDEN / f"picodet_{case}.npz")
    stages = model.backbone.forward_stages(image())[-3:]
    for i, stage in enumerate(stages):
        means = stage.numpy().mean(axis=(0, 2, 3))
        np.testing.assert_allclose(means, golden[f"backbone{i}_mean"], atol=2e-5)
    for i, level in enumerate(model.neck(stages)):
        np.testing.assert_allclose(level.numpy()[:, ::8], golden[f"neck{i}"], atol=2e-5)
    found = model(image())
    np.testing.assert_allclose(found["scores"].numpy()[:, ::8], golden["scores"], atol=2e-5)
    np.testing.assert_allclose(found["boxes"].numpy(), golden["boxes"], atol=5e-4)
    sides = found["sides"].numpy()[..., -9:].reshape(1, 32, 9).transpose(0, 2, 1)
    np.testing.assert_allclose(sides, golden["raw_reg_l3"], atol=2e-5)
    assert found["places"].shape == [1, 639, 3]


def test_the_names_are_paddle_detections(known: tuple[str, PicoDet]) -> None:
    case, model = known
    theirs = json.loads((GOLDEN / f"picodet_{case}_params.json").read_text(encoding="utf-8"))
    twice = {pair[0] for pair in theirs["aliased_names"]}
    wanted = {k: s for k, s in theirs["params"] if k not in twice and "project" not in k}
    own = {name: list(value.shape) for name, value in model.state_dict().items()}
    if "mobilenet" in case:
        assert sorted(map(str, own.values())) == sorted(map(str, wanted.values()))
        renamed = model.own_state({name: name for name in wanted})
        assert set(renamed) == set(own)
        assert renamed["backbone.blocks.3.mid_se.conv1.weight"].startswith("backbone.conv5.mid_se.")
    else:
        assert own == wanted
    assert sum(p.size for p in model.parameters() if not p.stop_gradient) == theirs["n_trainable"]


def test_what_is_missing_in_a_file_or_unknown_is_said(tmp_path: Path) -> None:
    state = official("v2_lcnet_x0_5")
    model = make("PPLCNet_x0_5", 2)
    report = load_weights(model, write_state(tmp_path / "official", state))
    assert len(report.matched) == len(model.state_dict())
    assert not (report.missing or report.unexpected or report.mismatched)
    with pytest.raises(
        UserError, match=r"1 missing in the file \(neck\.conv_t\.convs\.0\.bn\.bias"
    ):
        without = {k: v for k, v in state.items() if k != "neck.conv_t.convs.0.bn.bias"}
        apply_state(model, without, "a file")
    with pytest.raises(UserError, match="another classifier"):
        apply_state(make("PPLCNet_x0_5", 2, class_num=3), state, "a file")


def test_a_file_with_other_classes_gives_the_rest() -> None:
    state, model = official("v2_lcnet_x0_5"), make("PPLCNet_x0_5", 2, class_num=3)
    report = apply_state(model, state, "a file", replace_head=True)
    assert sorted({key.rpartition(".")[0] for key in report.mismatched}) == [
        f"head.head_cls{level}" for level in range(4)
    ]
    np.testing.assert_array_equal(model.head.head_reg0.bias.numpy(), state["head.head_reg0.bias"])


def test_the_classes_of_a_file() -> None:
    assert PicoDet.classes_in(official("v2_lcnet_x0_5")) == 80
    assert PicoDet.classes_in(official("legacy_lcnet_x0_5")) is None


def test_names_of_the_zoo() -> None:
    second, first = (
        create_model("picodet_PPLCNet_x1_5", 3),
        create_model("picodet_legacy_PPLCNet_x0_25", 3),
    )
    assert second.neck.channels == first.neck.channels == [128] * 4
    assert type(second.head) is not type(first.head)
    assert create_model("picodet_ResNet18_vd", class_num=3).neck.channels == [96] * 4


# trainable parameters, and multiply-adds of a 320 x 320 image in millions, counted from the layers
SIZES = [
    ("PPLCNet_x0_35", 2, 96, 2, 704_254, 331),
    ("PPLCNet_x0_75", 2, 96, 2, 1_186_492, 481),
    ("PPLCNet_x1_5", 2, 128, 4, 3_465_316, None),
    ("PPLCNet_x2_0", 2, 160, 4, 5_804_500, None),
    ("PPLCNet_x0_5", 1, 128, 4, 1_028_080, 466),
    ("PPLCNet_x1_0", 1, 128, 4, 1_830_688, 715),
    ("PPLCNet_x1_5", 1, 160, 4, 3_499_600, None),
    ("PPLCNet_x2_5", 1, 128, 4, 7_084_720, None),
    ("MobileNetV3_large_x0_35", 1, 128, 4, 1_087_936, 431),
    ("MobileNetV3_large_x0_75", 1, 128, 4, 2_352_368, 647),
    ("MobileNetV3_large_x1_0", 1, 128, 4, 3_554_662, None),
]


@pytest.mark.parametrize(("trunk", "generation", "width", "convs", "params", "flops"), SIZES)
def test_sizes(
    trunk: str, generation: int, width: int, convs: int, params: int, flops: int | None
) -> None:
    model = make(trunk, generation, width, convs)
    assert sum(p.size for p in model.parameters() if not p.stop_gradient) == params
    if flops is not None:
        assert round(cost(model, (3, 320, 320)).flops / 1e6) == pytest.approx(flops, abs=1)


def test_weight_decay_leaves_out_what_paddle_detection_leaves_out() -> None:
    for generation in (1, 2):
        model = make("PPLCNet_x0_25", generation, 16)
        learnt = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
        free = {n for n, p in learnt.items() if p.regularizer is not None}
        norms = {n for n in learnt if ".bn" in n}
        assert {n for n in norms if n.startswith("backbone.")} <= free
        assert not any(n.startswith(("neck.conv_t", "neck.downsamples")) for n in free)
        assert not any("top_conv" in n or "cls_align" in n for n in free)
        assert not any(n.startswith("head.head_") for n in free)
        blocks = {n for n in norms if n.startswith("neck.top_down_blocks")}
        assert blocks
        assert (blocks <= free) is (generation == 2)
        assert {n for n in learnt if "conv_feat" in n and ".norm." in n} <= free


def test_first_weights() -> None:
    model = make("PPLCNet_x0_25", 2, 32)
    assert model.head.head_cls2.bias.numpy() == pytest.approx(-4.59512, abs=1e-5)
    assert model.head.head_reg2.bias.numpy().tolist() == [0] * 32
    assert float(model.head.head_reg0.weight.std()) == pytest.approx(0.01, rel=0.1)
    assert float(model.head.conv_feat.se[0].fc.weight.std()) == pytest.approx(0.001, rel=0.1)
    widest = np.sqrt(6 / 32)  # of conv_t: 32 channels in
    assert widest * 0.9 < float(model.neck.conv_t.convs[0].conv.weight.abs().max()) <= widest
    normal = model.neck.top_down_blocks[0][0].pw_conv.conv.weight  # 64 channels in
    assert float(normal.std()) == pytest.approx(np.sqrt(2 / 64), rel=0.1)
    assert float(normal.abs().max()) > np.sqrt(6 / 64)
    first = make("PPLCNet_x0_25", 1, 16)
    assert first.head.head_cls0.bias.numpy() == pytest.approx(-4.59512, abs=1e-5)


def settled(model: PicoDet) -> PicoDet:
    """With statistics of what it sees, and scores and sides that differ from place to place.

    Without, features vanish or grow to 1e12 on the way, and then rounding decides where a side is.
    """
    paddle.seed(5)
    for name, layer in model.named_sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._momentum = 0.0  # the statistics of the last batch alone
        elif "head_cls" in name or "head_reg" in name:
            layer.weight.set_value(0.3 * paddle.randn(layer.weight.shape))
    model(paddle.randn([4, 3, 128, 128]))
    model.eval()
    return model


@paddle.no_grad()
@pytest.mark.parametrize("generation", [1, 2])
def test_raw_values_are_what_boxes_are_made_of(generation: int) -> None:
    model = settled(make("PPLCNet_x0_25", generation, 16, class_num=3))
    images = paddle.randn([2, 3, 64, 96])
    raw, found = dict(zip(model.raw_outputs, model.raw(images), strict=True)), model(images)
    assert [*raw] == [
        f"{kind}_{stride}" for kind in ("scores", "sides") for stride in model.strides
    ]
    scores = np.concatenate([raw[f"scores_{s}"].flatten(2).numpy() for s in model.strides], 2)
    np.testing.assert_array_equal(scores, found["scores"].numpy())
    sides = raw["sides_16"].numpy()  # (2, 32, 4, 6): a place in the middle, by hand
    chances = np.exp(sides[1, :, 2, 3].reshape(4, 8))
    left, top, right, bottom = 16 * (chances @ np.arange(8)) / chances.sum(axis=1)
    x, y, place = 3.5 * 16, 2.5 * 16, 8 * 12 + 2 * 6 + 3
    expected = [x - left, y - top, x + right, y + bottom]
    np.testing.assert_allclose(found["boxes"].numpy()[1, place], expected, atol=1e-3)


@pytest.mark.parametrize(("generation", "shape"), [(1, (3, 96, 64)), (2, (3, -1, -1))])
def test_the_program_gives_what_the_network_gives(
    generation: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """Under oneDNN, for any batch, and for any size where that is free."""
    model = settled(make("PPLCNet_x0_25", generation, 16, class_num=3))
    shipped = Shipped(model)
    shipped.eval()
    assert shipped.outputs == ("boxes", "scores")
    save_program(shipped, tmp_path, shape)
    engine = PaddleEngine(tmp_path)
    for number, height, width in ((1, 96, 64), (3, 96, 64), (2, 64, 160))[
        : 3 if -1 in shape else 2
    ]:
        inputs = np.random.default_rng(number).standard_normal(
            (number, 3, height, width), np.float32
        )
        boxes, scores = engine.run(inputs)
        cells = sum(-(-height // s) * -(-width // s) for s in (8, 16, 32, 64))
        assert boxes.shape == (number, cells, 4)
        assert scores.shape == (number, 3, cells)
        own_boxes, own_scores = shipped.run(inputs)
        np.testing.assert_allclose(boxes, own_boxes, atol=0.03)  # pixels, of a stride of 64
        np.testing.assert_allclose(scores, own_scores, atol=1e-3)


def test_other_trunks_and_options() -> None:
    images = paddle.zeros([1, 3, 64, 64])
    for trunk in ("MobileNetV2_x0_25", "ShuffleNetV2_x0_25", "ResNet18_vd"):
        assert make(trunk, 2, 8, class_num=2)(images)["scores"].shape == [1, 2, 64 + 16 + 4 + 1]
    spec = {
        "backbone": {"name": "PPLCNet_x0_25"},
        "neck": {"name": "CSPPAN", "out_channels": 8, "num_features": 3, "use_depthwise": False},
        "head": {"name": "PicoHeadV2", "use_align_head": False, "use_se": False, "reg_max": 5},
    }
    found = build({"PicoDet": spec}, "model", class_num=2)(images)
    assert found["boxes"].shape == [1, 84, 4]
    assert found["sides"].shape == [1, 4, 6, 84]
    np.testing.assert_allclose(
        paddle.nn.functional.sigmoid(found["logits"]).numpy(), found["scores"].numpy(), rtol=1e-6
    )


def test_mistakes_are_explained() -> None:
    with pytest.raises(UserError, match=r"strides \(8, 16, 32\).*found \(4, 8, 16\)"):
        make(
            "PPLCNet_x0_25",
            2,
            8,
            backbone={"name": "PPLCNet_x0_25", "stride_list": [1, 2, 2, 2, 2]},
        )
    with pytest.raises(UserError, match=r"multiples of 32 pixels, found 96 x 100 .*Padv2"):
        make("PPLCNet_x0_25", 2, 8)(paddle.zeros([1, 3, 100, 96]))
    with pytest.raises(ConfigError, match=r"neck.*there is no neck 'LCPAM'; did you mean 'LCPAN'"):
        make("PPLCNet_x0_25", 2, 8, neck={"name": "LCPAM"})
    with pytest.raises(ConfigError, match=r"it is a head"):
        make("PPLCNet_x0_25", 2, 8, neck={"name": "PicoHead"})
    with pytest.raises(UserError, match="prior_prob"):
        make("PPLCNet_x0_25", 2, 8, head={"name": "PicoHead", "prior_prob": 1.0})
