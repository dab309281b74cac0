"""One set of weights for all candidates: slices, gradients, statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.search.pplcnet_space import PPLCNetSpace
from ppcls_lite.search.space import ArchSpace, Candidate
from ppcls_lite.search.supernet import Gradients, Supernet, part_of, retake_statistics, take

SPACE = PPLCNetSpace(
    stem=[8, 16],
    widths=[[8], [8, 16], [16], [16, 24], [24, 32]],
    depths=[[1], [1], [1], [1, 2], [1]],
    expand=[32, 64],
    activations=["relu", "hardswish"],
)


def network(candidate: Candidate) -> nn.Layer:
    return create_model("PPLCNet", class_num=4, dropout_prob=0.0, **SPACE.arch(candidate))


def loss(outputs: Any, batch: Any) -> paddle.Tensor:
    return nn.functional.cross_entropy(outputs, batch["label"])


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    paddle.seed(0)
    return Supernet(SPACE, network, loss)


@pytest.fixture(scope="module")
def batch() -> dict[str, paddle.Tensor]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 32, 32)).astype(np.float32)
    return {"image": paddle.to_tensor(images), "label": paddle.to_tensor(np.arange(8) % 4)}


def test_where_a_part_lies() -> None:
    assert part_of((16, 1, 5, 5), (8, 1, 3, 3), "w") == np.s_[0:8, 0:1, 1:4, 1:4]
    assert part_of((64, 10), (32, 10), "w") == np.s_[0:32, 0:10]
    for whole, part in (((8,), (16,)), ((8, 8), (8,))):
        with pytest.raises(UserError, match="is no part of one of"):
            part_of(whole, part, "w")


def cut(array: np.ndarray, shape: list[int]) -> np.ndarray:
    """The first numbers along each axis, of kernels the middle."""
    if array.ndim < 4:
        return array[tuple(map(slice, shape))]
    start = (array.shape[2] - shape[2]) // 2
    return array[: shape[0], : shape[1], start : start + shape[2], start : start + shape[3]]


def given_its_part(alone: nn.Layer, supernet: Supernet) -> nn.Layer:
    """The network with what it has in the supernet's weights."""
    weights = supernet.weights()
    alone.set_state_dict({n: cut(weights[n], t.shape) for n, t in alone.state_dict().items()})
    return alone


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("PPLCNetV2", {"scale": [0.25, 0.5], "depths": [[1, 1, 1, 1], [1, 2, 2, 1]]}),
        ("PPLCNetV3", {"scale": [0.35, 0.5]}),
    ],
)
def test_parts_of_other_families_stand_alone(family: str, keys: dict[str, list[Any]]) -> None:
    space = ArchSpace(family, keys)

    def made(candidate: Candidate) -> nn.Layer:
        return create_model(family, class_num=4, dropout_prob=0.0, **space.arch(candidate))

    whole = Supernet(space, made, loss)
    images = paddle.randn([4, 3, 64, 64])
    retake_statistics(whole.whole, [images])
    alone = given_its_part(made(space.smallest()), whole)
    part = whole.network(space.smallest())
    part.eval()
    alone.eval()
    expected = alone(images).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(part(images).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_a_part_is_the_network_that_stands_alone(supernet: Supernet, batch: Any) -> None:
    retake_statistics(supernet.whole, [batch["image"]])  # else values fade from layer to layer
    small = {**SPACE.largest(), "width3": 8, "kernel5.0": 3, "attention4.0": 0}
    small["activation"] = "relu"
    alone = given_its_part(network(small), supernet)
    pairs = [(supernet.network(small), alone), (supernet.network(SPACE.largest()), supernet.whole)]
    for pair in pairs:
        for model in pair:
            model.eval()
        found, expected = (model(batch["image"]).numpy() for model in pair)
        assert np.abs(found - expected).max() < 1e-6
    assert np.abs(pairs[0][1](batch["image"]).numpy() - expected).max() > 1e-3


def test_gradients_are_means_over_the_networks_that_have_a_number(
    supernet: Supernet, batch: Any
) -> None:
    whole, small = supernet.whole, supernet.network(SPACE.smallest())
    for model in (whole, small):
        model.clear_gradients()
        model.train()
        loss(model(batch["image"]), batch).backward()
    own = {n: p.grad.numpy().copy() for n, p in whole.named_parameters() if p.grad is not None}
    parts = {n: p.grad.numpy() for n, p in small.named_parameters() if p.grad is not None}
    gradients = Gradients(whole)
    gradients.add(small)
    gradients.set()
    for name, before in own.items():
        expected = before.copy()
        if name in parts:
            place = part_of(before.shape, parts[name].shape, name)
            expected[place] = (before[place] + parts[name]) / 2
        found = dict(whole.named_parameters())[name].grad.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    whole.clear_gradients()


def test_an_update_trains_all_sizes(batch: Any) -> None:
    paddle.seed(1)
    supernet = Supernet(SPACE, network, loss)
    optimizer = paddle.optimizer.Momentum(0.05, parameters=supernet.whole.parameters())
    losses = []
    for step in range(12):
        losses.append(supernet.backward(batch, np.random.default_rng(step)))
        optimizer.step()
        optimizer.clear_grad()
    assert losses[-1] < 0.7 * losses[0]
    small = supernet.network(SPACE.smallest())
    retake_statistics(small, [batch["image"]])
    assert float(loss(small(batch["image"]), batch)) < losses[0]


def test_statistics_are_means_over_the_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2D(1))
    images = [paddle.full([2, 1, 2, 2], value) for value in (1.0, 3.0, 8.0)]
    retake_statistics(model, images)
    assert model[0]._mean.item() == pytest.approx(4.0) and not model.training
    assert model[0]._momentum == 0.9


def test_a_space_whose_last_options_are_not_the_largest_is_refused(supernet: Supernet) -> None:
    with pytest.raises(UserError, match="last option of each slot"):
        take(create_model("PPLCNet_x1_0", class_num=4), supernet.weights())
