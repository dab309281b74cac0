"""Weights under the names of Hugging Face's transformers, against its own answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights import torch_names
from ppcls_lite.models.weights.convert import convert
from ppcls_lite.models.weights.load import load_weights
from ppcls_lite.models.weights.safetensors_file import (
    read_safetensors,
    write_safetensors,
)
from tests.models.made_up import made_up

GOLDEN = Path(__file__).parents[1] / "fixtures" / "transformers" / "pplcnet_x0_25.json.gz"


def test_pplcnet_is_that_of_transformers(tmp_path: Path) -> None:
    """Names, shapes and answers (2, 10) recorded from transformers 5.x, scale 0.25, 96 pixels."""
    golden = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    state = {
        name: made_up(name, tuple(shape)) if shape else np.array(7)
        for name, shape in golden["shapes"].items()
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, state)
    images = np.random.RandomState(7).standard_normal((2, 3, 96, 96)).astype("float32")
    ours = tmp_path / "ours.pdparams"
    convert(path, ours, "PPLCNet_x0_25")
    back = tmp_path / "back.safetensors"
    convert(ours, back, "PPLCNet_x0_25", names="transformers")
    kept = read_safetensors(back)
    assert kept.keys() == {name for name in state if not name.endswith("tracked")}
    assert all(np.array_equal(value, state[name]) for name, value in kept.items())
    for source in (path, ours):
        network = create_model("PPLCNet_x0_25", class_num=10)
        load_weights(network, source)
        network.eval()
        with paddle.no_grad():
            found = network(paddle.to_tensor(images)).numpy()
        expected = np.array(golden["logits"])
        assert np.abs(found - expected).max() / np.abs(expected).max() < 2e-5
    with pytest.raises(UserError, match=r"has no place for last_conv\.weight"):
        hgnet = create_model("PPHGNetV2_B0", class_num=2)
        torch_names.to_theirs(hgnet, hgnet.state_dict(), transformers=True)
    with pytest.raises(UserError, match="transformers, which are known for PPLCNet, PPHGNetV2;"):
        torch_names.to_ours(create_model("MobileNetV1_x0_25"), state)


def test_the_trunk_of_pphgnet_is_named_as_there() -> None:
    model = create_model("PPHGNetV2_B0", class_num=0)
    own = {key: value.numpy() for key, value in model.state_dict().items()}
    theirs = torch_names.TRANSFORMERS["PPHGNetV2"].of(own)
    assert theirs["stem.stem2a.bn._mean"] == "embedder.stem2a.normalization.running_mean"
    block = "stages.2.blocks.1.aggregation_excitation_conv"
    assert theirs[f"{block}.conv.weight"] == (
        "encoder.stages.2.blocks.1.aggregation.1.convolution.weight"
    )
    back = torch_names.to_ours(model, {theirs[key]: value for key, value in own.items()})
    assert back.keys() == own.keys()
    assert all(np.array_equal(back[key], value) for key, value in own.items())
