"""The newer families: the official keys, rates and decays, outputs, costs and one training step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config.zoo import ZOO
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.create import cost, create_model
from ppcls_lite.models.layers import DropPath

FIXTURES = Path(__file__).parent.parent / "fixtures" / "backbones"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))
STATISTICS = ("._mean", "._variance")


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def noise(seed: int, shape: list[int]) -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(seed).standard_normal(shape).astype("float32"))


def outputs(model: Backbone, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
    """By the names of the golden arrays: logits, or the features of a trunk, thinned out."""
    if model.class_num:
        return {"logits": model(x)}
    features = model.forward_stages(x)
    if isinstance(model.strides[-1], tuple):  # lines of text
        return {"out0": features[-1]}
    return {f"out{i}": feature for i, feature in enumerate(features)}


def thinned(key: str, output: np.ndarray, line: bool) -> np.ndarray:
    if key == "logits":
        return output
    if line:
        return output[:, ::4]
    steps = [max(1, edge // most) for edge, most in zip(output.shape[1:], (32, 8, 10))]
    return output[:, :: steps[0], :: steps[1], :: steps[2]]


class Case:
    """A golden network, filled, and its arrays."""

    def __init__(self, name: str, fill: Callable) -> None:
        self.golden = json.loads((FIXTURES / f"{name}.json").read_text())
        self.arrays = np.load(FIXTURES / f"{name}.npz")
        self.model = create_model(self.golden["arch"])
        values = fill(self.golden["state"], self.golden["gain"])
        kept = self.model.state_dict()
        values |= {key: kept[key].numpy() for key in self.golden["not_filled"]}
        self.model.set_state_dict(values)

    def worst(self, x: paddle.Tensor, suffix: str) -> float:
        line = isinstance(self.model.strides[-1], tuple)
        with paddle.no_grad():
            found = outputs(self.model, x)
        keys = {key: f"{key}{suffix}" + "_sub" * (key != "logits") for key in found}
        return max(
            relative(thinned(key, value.numpy(), line), self.arrays[keys[key]])
            for key, value in found.items()
        )


def test_every_newer_family_and_form_is_there() -> None:
    families = {ZOO[json.loads((FIXTURES / f"{n}.json").read_text())["arch"]].family for n in NAMES}
    assert len(NAMES) == 10 and len(families) == 7


@pytest.mark.parametrize("name", NAMES)
def test_keys_outputs_and_costs(name: str, fill: Callable) -> None:
    case = Case(name, fill)
    golden, model = case.golden, case.model
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(own.items()) == list(golden["state"].items())
    named = [(n, p) for n, p in model.named_parameters() if not n.endswith(STATISTICS)]
    factors = [f"{p.optimize_attr['learning_rate']:g}" for _, p in named]
    assert {f: factors.count(f) for f in factors if f != "1"} == golden["lr_mult"]
    assert sum(p.regularizer is not None for _, p in named) == golden["no_weight_decay"]
    for size, millions in golden["macs_m"].items():
        flops = cost(model, tuple(int(edge) for edge in size.split("x"))).flops
        assert flops / 1e6 == pytest.approx(millions, abs=0.01)

    model.eval()
    x = noise(7, golden["input"])
    assert case.worst(x, "") < 2e-5
    assert case.worst(golden["scaled_input"] * x, "_scaled") < 2e-4
    if model.reparameterize():
        assert set(model.state_dict()) == set(golden.get("state_fused", model.state_dict()))
        assert case.worst(x, "") < 2e-5
        assert model.reparameterize() == 0  # nothing is left to merge


@pytest.mark.parametrize("name", NAMES)
def test_one_training_step(name: str, fill: Callable) -> None:
    case = Case(name, fill)
    model, train = case.model, case.golden["train"]
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0
        if isinstance(layer, DropPath):
            layer.rate = 0
    found = outputs(model, noise(11, train["x_shape"]))
    if model.class_num:
        labels = paddle.to_tensor([0, 37, 74, 111])
        loss = paddle.nn.functional.cross_entropy(found["logits"], labels)
    else:
        loss = sum((feature**2).mean() for feature in found.values())
    loss.backward()
    assert float(loss) == pytest.approx(train["loss"], rel=1e-4)
    named = {n: p for n, p in model.named_parameters() if not n.endswith(STATISTICS)}
    assert sum(p.stop_gradient for p in named.values()) == train["without_grad"]
    for key, norm in train["grad_l2"].items():
        limit = 5e-2 * max(norm, 1e-2 * train["largest"])
        assert _norm(named[key].grad) == pytest.approx(norm, abs=limit), key
    state = model.state_dict()
    for key, norm in train["buffer_l2_after"].items():
        assert _norm(state[key]) == pytest.approx(norm, rel=1e-3), key


def _norm(value: Any) -> float:
    return float(np.linalg.norm(value.numpy()))
