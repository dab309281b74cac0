"""Spaces: what a candidate stands for, how others are made of it, what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.config.check import build
from ppcls_lite.config.complete import Recipe
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.search.latency import Meter
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.pplcnet_space import PPLCNetSpace
from ppcls_lite.search.space import digest

SPACE = PPLCNetSpace()


def test_the_papers_networks_are_points() -> None:
    known = SPACE.known()
    assert list(known) == ["PPLCNet_x0_5", "PPLCNet_x0_75", "PPLCNet_x1_0"]
    for name, candidate in known.items():
        ours = create_model("PPLCNet", class_num=10, **SPACE.arch(candidate)).state_dict()
        official = create_model(name, class_num=10).state_dict()
        shapes = {key: value.shape for key, value in official.items()}
        assert {key: value.shape for key, value in ours.items()} == shapes
        assert candidate == SPACE.canonical(candidate)


def test_slots_that_do_not_matter_make_no_other_candidate() -> None:
    shallow = SPACE.smallest()
    other = SPACE.canonical({**shallow, "kernel5.5": 5, "attention6.2": 1})
    assert other == shallow and digest(other) == digest(shallow)
    deep = SPACE.canonical({**shallow, "depth5": 6, "kernel5.5": 5})
    assert deep["kernel5.5"] == 5 and digest(deep) != digest(shallow)


def test_candidates_are_plain_and_drawn_by_the_generator_alone() -> None:
    drawn = [SPACE.draw(np.random.default_rng(3)) for _ in range(2)]
    assert drawn[0] == drawn[1] == json.loads(json.dumps(drawn[0]))
    rng = np.random.default_rng(0)
    one, other = SPACE.draw(rng), SPACE.draw(rng)
    changed = SPACE.changed(one, rng, 0.0)
    assert sum(changed[slot] != one[slot] for slot in SPACE.slots) <= 1 + 7  # a depth frees blocks
    mixed = SPACE.mixed(one, other, rng)
    for slot in ("width2", "depth4", "expand", "stem"):
        assert mixed[slot] in (one[slot], other[slot])


def test_pieces_have_the_shapes_of_the_networks_features() -> None:
    candidate = SPACE.known()["PPLCNet_x0_5"]
    pieces = SPACE.pieces(
        candidate, (3, 65, 224), {"class_num": 7, "stride_list": [2, [2, 1], 2, 2, 2]}
    )
    assert len(pieces) == 2 + 2 * 13
    assert pieces[0].shape == (3, 65, 224) and pieces[1].shape == (8, 33, 112)
    assert pieces[3].name == "depthwise 16 3 [2,1] 0 hardswish at 16x33x112"
    assert pieces[-1].shape == (256, 3, 14)
    x = np.zeros((1, *pieces[0].shape), np.float32)
    import paddle

    feature = paddle.to_tensor(x)
    for piece in pieces:
        layer = piece.build()
        layer.eval()
        assert tuple(feature.shape[1:]) == piece.shape, piece.name
        feature = layer(feature)
    assert feature.shape == [1, 7]


def test_the_activation_may_be_chosen() -> None:
    space = PPLCNetSpace(activations=["hardswish", "relu"])
    assert space.slots["activation"] == ["relu", "hardswish"]  # the paper's is the largest
    assert "activation" not in SPACE.slots and "act" not in SPACE.arch(SPACE.smallest())
    assert [*space.known()] == [*SPACE.known()]
    assert not PPLCNetSpace(activations=["relu"]).known()
    for activation, other in (("relu", "hardswish"), ("hardswish", "relu")):
        candidate = {**space.smallest(), "activation": activation}
        assert space.arch(candidate)["act"] == activation
        pieces = space.pieces(candidate, (3, 32, 32), {"act": other})
        assert all(piece.name.split(" at ")[0].split()[-1] == activation for piece in pieces)


def test_sizes_and_other_networks() -> None:
    sized = PPLCNetSpace(sizes=[64, 32], attention="tail")
    known = sized.known()
    assert [name for name in known if "x0_5" in name] == [
        "PPLCNet_x0_5 at 32",
        "PPLCNet_x0_5 at 64",
    ]
    assert known["PPLCNet_x0_5 at 32"]["size"] == 32
    assert sized.smallest()["size"] == 32 and sized.largest()["size"] == 64
    assert sized.arch(sized.largest())["se_mask"].endswith("111")
    assert "size" not in sized.arch(sized.smallest())
    other = build({"ArchSpace": {"network": "PPLCNetV3", "keys": {"scale": [0.5, 1.0]}}}, "space")
    assert other.arch(other.largest()) == {"scale": 1.0} and other.pieces({}, (3, 1, 1), {}) == []


def test_the_trunk_of_a_detector(tmp_path: Path) -> None:
    """Its neck and head are the recipe's; it is measured as a whole, with the answers that ship."""
    inner = {"widths": [[8], [8, 16], [16, 24], [32], [48]], "expand": [1280]}
    space = build(
        {"TrunkSpace": {"network": "PicoDet", "space": {"name": "PPLCNetSpace", **inner}}}, "space"
    )
    tree = {
        "Arch": {
            "name": "PicoDet",
            "class_num": 3,
            "backbone": {"name": "PPLCNet_x0_25"},
            "neck": {"name": "LCPAN", "out_channels": 24, "num_features": 3},
            "head": {"name": "PicoHead", "num_convs": 1},
        },
        "Global": {"cpu_kernels": "off"},
    }
    networks = Networks(Recipe.of(tree), space, (3, 64, 64))
    for candidate, widths in ((space.smallest(), (8, 16)), (space.largest(), (16, 24))):
        assert networks.pieces(candidate) == []
        model = networks.build(candidate)
        assert tuple(model.backbone.channels[-3:]) == (widths[1], 32, 48)
        assert model.head.class_num == 3
        made = networks.recipe(tree, candidate, None)["Arch"]
        assert made["neck"] == tree["Arch"]["neck"] and made["backbone"]["widths"][1] == widths[0]
    target = networks.named("picodet_PPLCNet_x0_5")  # with a neck and a head of its own
    assert target.shape == (3, 64, 64) and target.build().class_num == 3
    with pytest.raises(UserError, match=r"--latency: model.backbone: is missing; PicoDet needs"):
        networks.named("PicoDet")
    Meter(Setting("onnxruntime", "fp32", 1), [0])._export(networks.whole(candidate), tmp_path / "a")
    outputs = onnx.load(tmp_path / "a" / "inference.onnx").graph.output
    sizes = [[d.dim_value for d in output.type.tensor_type.shape.dim][1:] for output in outputs]
    assert sizes == [[84, 4], [3, 84]]  # boxes and scores at 8 x 8, 4 x 4 and 2 x 2 places


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [[8]]}, "widths: expected 5 lists"),
        ({"depths": [[1], [1], [], [1], [1]]}, r"depths\[2\]: expected one option"),
        ({"kernels": [4]}, "kernels"),
        ({"attention": "yes"}, "attention"),
    ],
)
def test_a_wrong_space_says_which_key(arguments: dict, message: str) -> None:
    with pytest.raises((ConfigError, UserError), match=message):
        build({"PPLCNetSpace": arguments}, "space")
