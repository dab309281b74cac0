"""Weights under timm's names: all pairs of networks, both directions, names and answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config.timm import TIMM, options_for
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights import torch_names
from ppcls_lite.models.weights.convert import convert
from ppcls_lite.models.weights.load import load_weights, read_state, write_state
from ppcls_lite.models.weights.safetensors_file import read_safetensors, write_safetensors

FIXTURES = Path(__file__).parent.parent / "fixtures" / "timm"
PAIRS = json.loads(gzip.decompress((FIXTURES / "pairs.json.gz").read_bytes()))
LOGITS = np.load(FIXTURES / "logits.npz")
RUN = [  # one of each family and of each difference
    *("lcnet_050", "lcnetv2_base", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100"),
    *("mobilenetv4_conv_small", "hgnetv2_b0", "starnet_s1", "fasternet_t0", "resnet18d"),
]


@pytest.fixture
def nothing_drawn() -> Any:
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.0))
    yield
    paddle.nn.initializer.set_global_initializer(None)


def theirs(name: str, shapes: dict[str, list[int]], fill: Callable) -> dict[str, np.ndarray]:
    """A file as the hub has it: their names and layouts, counters of batches."""
    pair = PAIRS[name]
    values = fill({key: shapes[key] for key in pair["mapping"]}, pair["gain"])
    state = {}
    for key, value in values.items():
        name = pair["mapping"][key]
        state[name] = np.ascontiguousarray(value.T if key in pair["transpose"] else value)
        if name.endswith("running_mean"):
            state[name.replace("running_mean", "num_batches_tracked")] = np.array(7)
    return state


@pytest.mark.parametrize("name", PAIRS)
def test_names_and_layouts_both_ways(name: str, fill: Callable, nothing_drawn: None) -> None:
    network = TIMM[name]
    assert network.ours == PAIRS[name]["ours"]
    model = create_model(network.ours, **network.options)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    file = theirs(name, shapes, fill)
    ours = torch_names.to_ours(model, file)
    assert {key: list(value.shape) for key, value in ours.items()} == shapes
    back = torch_names.to_theirs(model, ours)
    kept = {key: value for key, value in file.items() if not key.endswith("tracked")}
    assert back.keys() == kept.keys()
    assert all(np.array_equal(back[key], value) for key, value in kept.items())


@pytest.mark.parametrize("name", RUN)
def test_answers(name: str, fill: Callable, nothing_drawn: None, tmp_path: Path) -> None:
    pair, network = PAIRS[name], TIMM[name]
    model = create_model(network.ours, **network.options)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    write_safetensors(tmp_path / "a.safetensors", theirs(name, shapes, fill))
    load_weights(model, tmp_path / "a.safetensors")
    model.eval()
    x = np.random.RandomState(7).standard_normal((2, 3, 224, 224)).astype("float32")
    for factor, key, limit in ((1, name, 2e-5), (pair["scaled_input"], f"{name}_scaled", 5e-4)):
        with paddle.no_grad():
            logits = model(paddle.to_tensor(np.float32(factor) * x)).numpy()[:, ::10]
        assert np.abs(logits - LOGITS[key]).max() / np.abs(LOGITS[key]).max() < limit


@pytest.fixture
def lcnet(fill: Callable, tmp_path: Path) -> Path:
    """A file of timm's lcnet_050."""
    model = create_model("PPLCNet_x0_5", **TIMM["lcnet_050"].options)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    write_safetensors(tmp_path / "model.safetensors", theirs("lcnet_050", shapes, fill))
    return tmp_path / "model.safetensors"


def test_other_classes_and_no_classes(lcnet: Path) -> None:
    options = TIMM["lcnet_050"].options
    model = create_model("PPLCNet_x0_5", class_num=7, pretrained=lcnet, **options)
    trunk = create_model("PPLCNet_x0_5", class_num=0, pretrained=lcnet, **options)
    for key, value in trunk.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[key].numpy())
    assert model.fc.weight.shape == [1280, 7]


def test_without_the_options_nothing_is_loaded(lcnet: Path) -> None:
    with pytest.raises(UserError, match=r"1 not in the network \(last_conv.bias\)"):
        load_weights(create_model("PPLCNet_x0_5"), lcnet)
    with pytest.raises(UserError, match="timm's names are not known for ShuffleNetV2"):
        load_weights(create_model("ShuffleNetV2_x0_25"), lcnet)


def test_the_options_follow_from_the_address() -> None:
    assert options_for("MobileNetV1", "timm://mobilenetv1_100.ra4_e3600_r224_in1k") == {
        "act": "relu6"
    }
    assert options_for("MobileNetV1", "hf://timm/mobilenetv1_100.x@main") == {"act": "relu6"}
    assert options_for("MobileNetV1", "hf://somebody/mobilenetv1_100") == {}
    assert options_for("MobileNetV1", True) == options_for("MobileNetV1", "a/file") == {}
    with pytest.raises(ConfigError, match="lcnet_050, which is PPLCNet_x0_5 here; the network is"):
        options_for("PPLCNet_x1_0", "timm://lcnet_050.ra2_in1k")
    with pytest.raises(ConfigError, match="none of the networks here; did you mean 'lcnet_"):
        options_for("PPLCNet_x1_0", "timm://lcnet_05.ra2_in1k")


def test_conversion_round_trips(lcnet: Path, tmp_path: Path) -> None:
    ours, back = tmp_path / "ours.pdparams", tmp_path / "back.safetensors"
    convert(lcnet, ours, "PPLCNet_x0_5")
    assert "last_conv.bias" in read_state(ours)
    convert(ours, back, "PPLCNet_x0_5", names="timm")
    before, after = read_safetensors(lcnet), read_safetensors(back)
    assert set(before) - set(after) == {key for key in before if key.endswith("tracked")}
    assert all(np.array_equal(before[key], after[key]) for key in after)


def test_official_weights_as_timms(tmp_path: Path) -> None:
    """The factor of our evaluation goes into the classifier, a bias of zero into the last layer."""
    model = create_model("PPLCNet_x0_25")
    model.eval()
    write_state(tmp_path / "a", model.state_dict())
    with pytest.raises(UserError, match="timm has no network like PPLCNet_x0_25"):
        convert(tmp_path / "a.pdparams", tmp_path / "b.safetensors", "PPLCNet_x0_25", names="timm")
    model = create_model("PPLCNet_x0_35")
    model.eval()
    write_state(tmp_path / "a", model.state_dict())
    convert(tmp_path / "a.pdparams", tmp_path / "b.safetensors", "PPLCNet_x0_35", names="timm")
    same = create_model(
        "PPLCNet_x0_35", pretrained=tmp_path / "b.safetensors", **TIMM["lcnet_035"].options
    )
    same.eval()
    x = paddle.rand([1, 3, 64, 64])
    np.testing.assert_allclose(same(x).numpy(), model(x).numpy(), rtol=1e-4, atol=1e-5)
    write_state(tmp_path / "c", create_model("MobileNetV1").state_dict())
    with pytest.raises(UserError, match="timm's mobilenetv1_100 has act=relu6"):
        convert(tmp_path / "c.pdparams", tmp_path / "d.safetensors", "MobileNetV1", names="timm")
