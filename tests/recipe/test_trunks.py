"""A network inside a network: built without a classifier, and with the weights that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import read_state, write_state
from ppcls_lite.recipe.networks import build_model
from ppcls_lite.recipe.parts import build_loss

ROOT = Path(__file__).resolve().parents[2]
PARTS = """
from paddle import nn

from ppcls_lite import register
from ppcls_lite.config.schema import PositiveInt, TrunkSpec
from ppcls_lite.losses.base import Loss
from ppcls_lite.models.network import Network


@register("model")
class TwoHeads(Network):
    head_layers = ("fc",)

    def __init__(self, backbone: TrunkSpec, class_num: PositiveInt = 4) -> None:
        super().__init__()
        self.class_num = class_num
        self.backbone = backbone
        self.fc = nn.Linear(backbone.channels[-1], class_num)

    def forward(self, x):
        return self.fc(self.backbone(x).mean([2, 3]))


@register("loss")
class Perceptual(Loss):
    def __init__(self, network: TrunkSpec) -> None:
        super().__init__()
        self.network = network
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of PPLCNet_x0_25 with its classifier."""
    paddle.seed(11)
    return write_state(tmp_path / "trunk", create_model("PPLCNet_x0_25").state_dict())


def settings(folder: Path, backbone: dict[str, Any], *overrides: str) -> Any:
    (folder / "my_parts.py").write_text(PARTS, encoding="utf-8")
    tree = load_config(ROOT / "configs" / "PPLCNet_x0_5.yaml", overrides)
    tree["Global"]["plugins"] = [str(folder / "my_parts.py")]
    tree["Arch"] = {"name": "TwoHeads", "class_num": 3, "backbone": backbone}
    return check(tree)


def loaded(model: paddle.nn.Layer, file: Path) -> bool:
    """Whether the trunk holds exactly what the file says."""
    state, own = read_state(file), model.state_dict()
    assert "fc.weight" in own and not any(key.startswith("backbone.fc") for key in own)
    trunk = {k.removeprefix("backbone."): v for k, v in own.items() if k.startswith("backbone.")}
    assert trunk
    return all(np.array_equal(value.numpy(), state[key]) for key, value in trunk.items())


@pytest.mark.parametrize("form", ["name", "one key"])
def test_a_trunk_has_the_weights_that_it_names(form: str, tmp_path: Path, weights: Path) -> None:
    given = {"pretrained": str(weights)}
    backbone = {"name": "PPLCNet_x0_25", **given} if form == "name" else {"PPLCNet_x0_25": given}
    model = build_model(settings(tmp_path, backbone), training=True)
    assert loaded(model, weights)
    assert model.fc.weight.shape == [128, 3]
    assert not loaded(build_model(settings(tmp_path, {"name": "PPLCNet_x0_25"}), True), weights)


def test_weights_of_the_whole_network_win(tmp_path: Path, weights: Path) -> None:
    backbone = {"name": "PPLCNet_x0_25", "pretrained": str(tmp_path / "not read")}
    whole = build_model(settings(tmp_path, {"name": "PPLCNet_x0_25"}), training=True)
    file = write_state(tmp_path / "whole", whole.state_dict())
    given = f"Global.pretrained_model={file}"
    model = build_model(settings(tmp_path, backbone, given))
    for key, value in whole.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[key].numpy(), value.numpy())


def test_a_wrong_file_is_named_with_its_place(tmp_path: Path, weights: Path) -> None:
    gone = {"name": "PPLCNet_x0_25", "pretrained": str(tmp_path / "gone")}
    with pytest.raises(UserError, match=r"^Arch\.backbone\.pretrained: no weights at .*gone"):
        build_model(settings(tmp_path, gone), training=True)
    other = {"name": "PPLCNet_x0_5", "pretrained": str(weights)}
    with pytest.raises(UserError, match=r"^Arch\.backbone\.pretrained: .*does not fit PPLCNet"):
        build_model(settings(tmp_path, other), training=True)


def test_a_trunk_has_neither_classes_nor_what_the_whole_decides(tmp_path: Path) -> None:
    for key, value in (("class_num", 3), ("use_sync_bn", True)):
        with pytest.raises(ConfigError, match=rf"Arch\.backbone\.{key}: PPLCNet_x0_25 has no arg"):
            settings(tmp_path, {"name": "PPLCNet_x0_25", key: value})


def test_a_trunk_is_merged_with_the_whole(tmp_path: Path) -> None:
    model = build_model(settings(tmp_path, {"name": "PPLCNetV2_small"}))
    model.eval()
    images = paddle.randn([1, 3, 64, 64])
    before = model(images)
    assert model.reparameterize() == create_model("PPLCNetV2_small").reparameterize() > 0
    np.testing.assert_allclose(model(images).numpy(), before.numpy(), rtol=1e-3, atol=1e-5)
    assert model.outputs == ("logits",)
    np.testing.assert_array_equal(model.deployed(images)[0].numpy(), model(images).numpy())


def test_the_network_inside_a_loss_has_its_weights(tmp_path: Path, weights: Path) -> None:
    term = f"{{Perceptual: {{network: {{name: PPLCNet_x0_25, pretrained: {weights}}}}}}}"
    found = settings(tmp_path, {"name": "PPLCNet_x0_25"}, f"Loss.Train=[{term}]")
    (loss,) = build_loss(found.Loss.Train, Mock(all_labelled=False)).losses
    first = loss.network.conv1.conv.weight
    np.testing.assert_array_equal(first.numpy(), read_state(weights)["conv1.conv.weight"])
