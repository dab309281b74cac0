"""Single updates computed by hand: decay, exclusions, clipping, and the rate set from outside."""

from __future__ import annotations

import json
import zlib

import numpy as np
import paddle
import pytest
from paddle import ParamAttr, nn
from paddle.regularizer import L2Decay

from ppcls_lite.config import check as config
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.losses.segmentation import SegCELoss
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import apply_state
from ppcls_lite.optim import optimizers as optim

RATE, COEFF = 0.5, 0.1


def constant(step: int) -> float:
    return RATE


def network(exempt_norm: bool = True) -> nn.Sequential:
    """A convolution, a BatchNorm exempt from decay as PP-LCNet's are, and a classifier."""
    paddle.seed(0)
    attr = ParamAttr(regularizer=L2Decay(0.0)) if exempt_norm else None
    layers = nn.Sequential(
        nn.Conv2D(1, 2, 3, bias_attr=False),
        nn.BatchNorm2D(2, weight_attr=attr, bias_attr=attr),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    for parameter in layers.parameters():
        parameter.set_value(paddle.uniform(parameter.shape, min=0.5, max=1.5))
    return layers


Values = dict[str, np.ndarray]


def update(
    description: optim.Optimizer, layers: nn.Layer, scale: float = 0.0, count: int = 1
) -> tuple[Values, Values]:
    """Updates with the gradient `scale` everywhere; returns the values before and after."""
    built = description.build(layers)
    before = {name: p.numpy() for name, p in layers.named_parameters()}
    for _ in range(count):
        sum((p * scale).sum() for p in layers.parameters()).backward()
        built.step()
        built.clear_grad()
    return before, {name: p.numpy() for name, p in layers.named_parameters()}


def changed(before: Values, after: Values) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


ALL = [optim.SGD, optim.Momentum, optim.Adam, optim.RMSProp]


@pytest.mark.parametrize("kind", ALL)
def test_decay_does_not_touch_parameters_with_a_regularizer_of_their_own(kind):
    before, after = update(kind(constant, regularizer=optim.L2(COEFF)), network())
    assert changed(before, after) == {"0.weight", "3.weight", "3.bias"}


@pytest.mark.parametrize("kind", ALL)
def test_decay_exclusions(kind):
    make = lambda **extra: kind(constant, weight_decay=COEFF, **extra)  # noqa: E731
    found = changed(*update(make(), network(exempt_norm=False)))
    assert found == {"0.weight", "1.weight", "1.bias", "3.weight", "3.bias"}
    found = changed(*update(make(one_dim_param_no_weight_decay=True), network(False)))
    assert found == {"0.weight", "3.weight"}
    found = changed(*update(make(no_weight_decay_name="1. 3.bias"), network(False)))
    assert found == {"0.weight", "3.weight"}


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
def test_rates_of_parts(kind):
    factors = {"0.": 0.5, "1.": 0.0, "bias": 0.1}  # the first that fits counts
    before, after = update(kind(constant, lr_mult=factors, weight_decay=0.0), network(), 1.0)
    whole, moved = update(kind(constant, weight_decay=0.0), network(), 1.0)
    expected = {"0.weight": 0.5, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 1.0, "3.bias": 0.1}
    for name, factor in expected.items():
        step = factor * (moved[name] - whole[name])
        np.testing.assert_allclose(after[name] - before[name], step, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="lr_mult: no parameter's name contains 'trunk'"):
        optim.SGD(constant, lr_mult={"trunk": 0.1}).build(network())


def test_adamw_decays_directly_and_keeps_exemptions():
    before, after = update(optim.AdamW(constant, weight_decay=COEFF), network())
    assert changed(before, after) == {"0.weight", "3.weight", "3.bias"}
    np.testing.assert_allclose(after["0.weight"], before["0.weight"] * (1 - RATE * COEFF), 1e-6)
    excluded = optim.AdamW(constant, weight_decay=COEFF, one_dim_param_no_weight_decay=True)
    assert changed(*update(excluded, network(False))) == {"0.weight", "3.weight"}
    excluded = optim.AdamW(constant, weight_decay=COEFF, no_weight_decay_name="0.weight")
    assert changed(*update(excluded, network())) == {"3.weight", "3.bias"}


@pytest.mark.parametrize(
    ("arguments", "penalty"),
    [
        ({"regularizer": optim.L2(COEFF)}, lambda w: COEFF * w),
        ({"weight_decay": COEFF}, lambda w: COEFF * w),
        ({"regularizer": optim.L1(COEFF)}, lambda w: COEFF * np.sign(w)),
        ({}, np.zeros_like),
    ],
)
def test_sgd_penalties(arguments, penalty):
    before, after = update(optim.SGD(constant, **arguments), network(), scale=2.0)
    w = before["0.weight"]
    np.testing.assert_allclose(after["0.weight"], w - RATE * (2.0 + penalty(w)), rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_by_hand(nesterov):
    description = optim.Momentum(constant, momentum=0.9, use_nesterov=nesterov)
    before, after = update(description, network(), scale=1.0, count=2)
    # velocities 1 and 1.9; Nesterov steps by gradient + 0.9 * velocity
    moved = (1 + 0.9) + (1 + 0.9 * 1.9) if nesterov else 1 + 1.9
    np.testing.assert_allclose(after["0.weight"], before["0.weight"] - RATE * moved, rtol=1e-5)


def test_adam_and_rmsprop_by_hand():
    before, after = update(optim.Adam(constant), network(), scale=3.0)
    np.testing.assert_allclose(after["0.weight"], before["0.weight"] - RATE, rtol=1e-5)
    before, after = update(optim.RMSProp(constant, rho=0.75), network(), scale=3.0)
    # mean square 0.25 * 9, so the step is 3 / 1.5 = 2 rates
    np.testing.assert_allclose(after["0.weight"], before["0.weight"] - 2 * RATE, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # 18 entries of 2 in the convolution: norm 2 sqrt(18); 28 entries in all
        ({"clip_norm": 1.0}, 1 / np.sqrt(18)),
        ({"clip_global_norm": 1.0}, 1 / np.sqrt(28)),
        ({"clip_value": 0.5}, 0.5),
        ({"clip_norm": 100.0}, 2.0),
    ],
)
def test_clipping(arguments, expected):
    before, after = update(optim.SGD(constant, **arguments), network(), scale=2.0)
    found = (before["0.weight"] - after["0.weight"]) / RATE
    np.testing.assert_allclose(found, np.full_like(found, expected), rtol=1e-4)


def test_rate_is_set_from_outside_and_begins_at_step_0():
    layers = network()
    built = optim.Momentum(lambda step: 0.25 + step).build(layers)
    assert built.get_lr() == 0.25
    built.set_lr(1.5)
    assert built.get_lr() == 1.5


def test_several_layers_and_frozen_parameters():
    first, second = network(), nn.Linear(2, 3)
    first[0].weight.stop_gradient = True
    built = optim.SGD(constant).build(first, second)
    names = {p.name for p in built._parameter_list}
    assert first[0].weight.name not in names
    assert {second.weight.name, first[3].bias.name} <= names
    for parameter in first.parameters():
        parameter.stop_gradient = True
    with pytest.raises(UserError, match="nothing to train"):
        optim.SGD(constant).build(first)


def test_learning_rate_of_a_parameter_multiplies():
    layer = nn.Linear(2, 2, weight_attr=ParamAttr(learning_rate=0.5))
    before, after = update(optim.Momentum(constant), layer, scale=1.0)
    np.testing.assert_allclose(before["weight"] - after["weight"], 0.5 * RATE, rtol=1e-5)
    np.testing.assert_allclose(before["bias"] - after["bias"], RATE, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD(constant, regularizer=optim.L2(0.1), weight_decay=0.1), "at most one"),
        (lambda: optim.SGD(constant, clip_norm=1.0, clip_value=1.0), "clip_norm and clip_value"),
        (lambda: optim.Momentum(constant, momentum=1.0), "momentum: expected less than 1"),
        (lambda: optim.Adam(constant, beta2=1.0), "beta2: expected less than 1"),
        (
            lambda: optim.SGD(constant, no_weight_decay_name="norm").build(network()),
            "contains 'norm'; names look like '0.weight'",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_built_from_the_papers_yaml():
    tree = {
        "name": "Momentum",
        "momentum": 0.9,
        "lr": {"name": "Cosine", "learning_rate": 0.8, "warmup_epoch": 5},
        "regularizer": {"name": "L2", "coeff": "3e-5"},
    }
    description = config.build(tree, "optimizer", epochs=360, step_each_epoch=626)
    assert description.lr(5 * 626) == 0.8
    built = description.build(network())
    assert built.get_lr() == 0.0
    assert description.regularizer.coeff == 3e-5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"momentun": 0.9}, "did you mean 'momentum'"),
        ({"momentum": 1.9}, "between 0 and 1"),
        ({"regularizer": {"name": "L2"}}, "coeff: is missing"),
        ({"clip_norm": -1}, "greater than 0"),
    ],
)
def test_yaml_mistakes_are_found_by_the_checker(extra, message):
    tree = {"name": "Momentum", "lr": {"learning_rate": 0.1}, **extra}
    with pytest.raises(ConfigError, match=message):
        config.build(tree, "optimizer", epochs=1, step_each_epoch=1)


TRUNKS = {"pplcnet_x0_5": "PPLCNet_x0_5", "mobilenetv3_large_x0_5": "MobileNetV3_large_x0_5"}


def medians(found: dict[str, float], expected: dict[str, float]) -> dict[str, float]:
    """The median relative difference of the norms of each group of weights."""
    groups: dict[str, list[float]] = {}
    for name, norm in found.items():
        part = "trunk" if name.startswith("backbone.") else "head"
        kind = "convolutions"
        if name.endswith(("bn.weight", "_batch_norm.weight")):
            kind = "scales"
        elif not name.endswith(".weight"):
            continue
        groups.setdefault(f"{part} {kind}", []).append(abs(norm / expected[name] - 1))
    return {group: float(np.median(values)) for group, values in groups.items()}


@pytest.mark.parametrize("tag", TRUNKS)
def test_three_steps_of_a_segmentation_equal_golden(tag, segmentation, dense_weights, dense_input):
    """PaddleSeg's: which gradients, running statistics and weights decay, three losses.

    The decay of one step is seen in the median of a group's norms alone: 4e-7 if it is wrong.
    """
    golden = json.loads((segmentation / f"deeplabv3p_{tag}_train.json").read_text())
    model = create_model(f"deeplabv3p_{TRUNKS[tag]}", class_num=19, aspp_ratios=[1, 3, 6, 9])
    shapes = [(name, value.shape) for name, value in model.state_dict().items()]
    apply_state(model, dense_weights(shapes), tag)
    model.head.aspp.dropout.p = 0.0
    images = paddle.to_tensor(dense_input("seg_train", (2, 3, 96, 128)))
    random = np.random.RandomState(zlib.crc32(b"label:seg_train"))
    mask = random.randint(0, 19, size=(2, 96, 128))
    mask[:, :8], mask[1, :, 100:] = 255, 255
    batch = {"image": images, "mask": paddle.to_tensor(mask.astype(np.uint8))}
    node = {"name": "Momentum", "momentum": 0.9, "regularizer": {"name": "L2", "coeff": 4e-5}}
    node["lr"] = {"learning_rate": 0.01}
    optimizer = config.build(node, "optimizer", epochs=1, step_each_epoch=3).build(model)
    model.train()
    loss, losses = SegCELoss(), []
    for step in range(3):
        (term,) = loss(model(images), batch).values()
        term.backward()
        losses.append(float(term))
        if step == 0:
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        if step == 0:
            for name, expected in golden["grad_l2_step0"].items():
                found = float(gradients[name].norm())
                assert found == pytest.approx(expected, rel=2e-3, abs=2e-7), name
            norms = {
                name: float(np.linalg.norm(value.numpy().astype(np.float64)))
                for name, value in model.state_dict().items()
            }
            assert norms == pytest.approx(golden["state_l2_after_step1"], rel=2e-5)
            found = medians(norms, golden["state_l2_after_step1"])
            assert len(found) == 4 and max(found.values()) < 5e-8, found
        optimizer.clear_grad()
    for found, expected, bound in zip(losses, golden["losses"], (1e-6, 3e-5, 2e-3)):
        assert found == pytest.approx(expected, rel=bound)


def test_lamb_by_hand() -> None:
    """One step: as long as the weights times the rate; that of exempt arrays is Adam's."""
    schedule = {"name": "ConstLR", "learning_rate": 0.01}
    found = config.build(
        {"Lamb": {"lr": schedule, "weight_decay": 0.1, "one_dim_param_no_weight_decay": True}},
        "optimizer",
        epochs=1,
        step_each_epoch=1,
    )
    model = paddle.nn.Linear(3, 2)
    model.bias.set_value(paddle.to_tensor([0.5, -0.5]))
    before = {p.name: p.numpy().astype("float64") for p in model.parameters()}
    optimizer = found.build(model)
    (model(paddle.ones([4, 3])) ** 2).mean().backward()
    gradients = {p.name: p.grad.numpy().astype("float64") for p in model.parameters()}
    optimizer.step()
    for parameter, decay in ((model.weight, 0.1), (model.bias, 0.0)):
        old, gradient = before[parameter.name], gradients[parameter.name]
        step = gradient / (np.abs(gradient) + 1e-6) + decay * old  # both moments are corrected
        length = np.linalg.norm(old) / np.linalg.norm(step) if decay else 1.0
        np.testing.assert_allclose(parameter.numpy(), old - 0.01 * length * step, atol=1e-5)
