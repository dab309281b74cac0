"""Every golden architecture: the official keys, shapes and logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.models.create import cost, create_model

FIXTURES = Path(__file__).parent.parent / "fixtures" / "classification"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json") if "arch" in path.read_text()[:40])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_every_family_has_golden_values() -> None:
    assert len(NAMES) == 34


@pytest.mark.parametrize("name", NAMES)
def test_state_and_logits_equal_the_official_ones(name: str, fill: Callable) -> None:
    golden = json.loads((FIXTURES / f"{name}.json").read_text())
    state = dict(golden["state"])
    model = create_model(name)
    model.eval()
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(own.items()) == [(key, list(shape)) for key, shape in state.items()]
    model.set_state_dict(fill(state))
    image = np.random.RandomState(7).standard_normal((2, 3, 224, 224)).astype("float32")
    with paddle.no_grad():
        logits = model(paddle.to_tensor(image)).numpy()
        expected = np.load(FIXTURES / f"{name}.npz")["logits"]
        assert relative(logits, expected) < 1e-4
        if model.reparameterize():
            assert relative(model(paddle.to_tensor(image)).numpy(), logits) < 1e-5
            assert model.reparameterize() == 0  # nothing is left to merge
        else:
            assert cost(model, (3, 32, 32)).params == golden["trainable_params"]
