"""Lion and Muon against their formulas in numpy, and what of them a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.config import check as config
from ppcls_lite.engine import checkpoint
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.optim import optimizers as optim
from ppcls_lite.optim.lion_muon import Lion, Muon
from ppcls_lite.optim.rules import orthogonal

RATE, DECAY, UPDATES = 0.02, 0.1, 4
Array = np.ndarray


def constant(step: int) -> float:
    return RATE


def network() -> nn.Sequential:
    """A convolution, a depthwise one, a normalisation and a classifier, of random weights."""
    paddle.seed(3)
    return nn.Sequential(
        nn.Conv2D(3, 8, 3),
        nn.Conv2D(8, 8, 3, groups=8, bias_attr=False),
        nn.BatchNorm2D(8),
        nn.Flatten(),
        nn.Linear(8 * 4, 5),
    )


def train(layers: nn.Layer, optimizer: paddle.optimizer.Optimizer, first: int = 0) -> list[dict]:
    """`UPDATES` updates on noise; the gradients of each."""
    seen = []
    for step in range(first, first + UPDATES):
        images = np.random.default_rng(step).normal(size=(6, 3, 6, 6)).astype(np.float32)
        (layers(paddle.to_tensor(images)) ** 2).mean().backward()
        seen.append({n: p.grad.numpy().astype(np.float64) for n, p in trained(layers).items()})
        optimizer.step()
        optimizer.clear_grad()
    return seen


def trained(layers: nn.Layer) -> dict[str, paddle.Tensor]:
    return {n: p for n, p in layers.named_parameters() if not p.stop_gradient}


def lion(weight: Array, gradients: list[Array]) -> Array:
    moment = np.zeros_like(weight)
    for gradient in gradients:
        weight = weight - RATE * (np.sign(0.9 * moment + 0.1 * gradient) + DECAY * weight)
        moment = 0.99 * moment + 0.01 * gradient
    return weight


def adamw(weight: Array, gradients: list[Array], decay: float = DECAY) -> Array:
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for t, gradient in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.95 * square + 0.05 * gradient**2
        step = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.95**t)) + 1e-8)
        weight = weight - RATE * (step + decay * weight)
    return weight


def muon(weight: Array, gradients: list[Array], nesterov: bool = True) -> Array:
    moment = np.zeros_like(weight)
    for gradient in gradients:
        moment = 0.95 * moment + gradient  # its length does not matter
        step = (gradient + 0.95 * moment if nesterov else moment).reshape(len(weight), -1)
        step = step / np.linalg.norm(step)
        left, values, right = np.linalg.svd(step, full_matrices=False)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        step = (left * values) @ right * 0.2 * np.sqrt(max(step.shape))
        weight = weight * (1 - RATE * DECAY) - RATE * step.reshape(weight.shape)
    return weight


def compare(description: Lion | Muon, formula: Callable[[str], Callable[..., Array]]) -> None:
    layers = network()
    before = {name: p.numpy().astype(np.float64) for name, p in trained(layers).items()}
    gradients = train(layers, description.build(layers))
    for name, parameter in trained(layers).items():
        expected = formula(name)(before[name], [step[name] for step in gradients])
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_lion_is_its_formula() -> None:
    compare(Lion(constant, weight_decay=DECAY), lambda name: lion)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_its_formula(nesterov: bool) -> None:
    """Of matrices by their singular values; depthwise kernels, vectors and named ones by AdamW."""
    description = Muon(constant, weight_decay=DECAY, use_nesterov=nesterov)
    compare(
        description,
        lambda name: (
            (lambda *given: muon(*given, nesterov=nesterov))
            if name in ("0.weight", "4.weight")
            else adamw
        ),
    )
    named = Muon(constant, weight_decay=DECAY, adamw_name="4.")
    compare(named, lambda name: muon if name == "0.weight" else adamw)
    with pytest.raises(UserError, match="adamw_name: no parameter's name contains 'fc'"):
        Muon(constant, adamw_name="fc").build(network())


def test_exemptions_from_decay() -> None:
    description = Muon(constant, weight_decay=DECAY, one_dim_param_no_weight_decay=True)
    none = lambda *given: adamw(*given, decay=0.0)  # noqa: E731
    kinds = {"0.weight": muon, "4.weight": muon, "1.weight": adamw}
    compare(description, lambda name: kinds.get(name, none))


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    matrix = paddle.to_tensor(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    found = np.linalg.svd(orthogonal(matrix).numpy(), compute_uv=False)
    assert found.min() > 0.6 and found.max() < 1.3


OTHERS = [optim.SGD, optim.Momentum, optim.Adam, optim.AdamW, optim.Lamb, optim.RMSProp]


@pytest.mark.parametrize("kind", [Lion, Muon, *OTHERS])
def test_a_resume_is_exact(kind: type) -> None:
    """Of a network whose layers Paddle numbers otherwise."""
    whole = network()
    built = kind(constant, weight_decay=DECAY).build(whole)
    train(whole, built)
    saved = checkpoint.optimizer_arrays(built, whole)
    assert saved["kind"] == kind.__name__
    assert all(set(values) == set(trained(whole)) for values in saved["slots"].values())
    assert saved["slots"] or kind is optim.SGD
    nn.Conv2D(2, 2, 1)
    other = network()
    fresh = kind(constant, weight_decay=DECAY).build(other)
    checkpoint.load_arrays(other, checkpoint.arrays(whole), "x")
    checkpoint.load_optimizer_arrays(fresh, other, saved, "x")
    train(whole, built, UPDATES)
    train(other, fresh, UPDATES)
    for name, array in checkpoint.arrays(whole).items():
        np.testing.assert_array_equal(array, checkpoint.arrays(other)[name], err_msg=name)


@pytest.mark.parametrize("kind", ["Lion", "Muon"])
def test_the_recipe_builds_them(kind: str) -> None:
    tree = {kind: {"lr": {"learning_rate": 0.01}, "weight_decay": 0.2, "clip_global_norm": 1.0}}
    layers = network()
    built = config.build(tree, "optimizer", epochs=1, step_each_epoch=1).build(layers)
    before = layers[0].weight.numpy()
    train(layers, built)
    assert type(built).__name__ == kind and not np.array_equal(before, layers[0].weight.numpy())
    with pytest.raises(ConfigError, match="did you mean 'weight_decay'"):
        config.build({kind: {"lr": 0.1, "weight_decays": 1}}, "optimizer", epochs=1)
