"""A convolution and its normalisation are one call, wherever a network has them in order."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.kernels.swap import convert
from ppcls_lite.models.layers import ConvBN, NamedConvBN
from ppcls_lite.models.picodet_head import ConvNorm
from ppcls_lite.models.picodet_neck import DepthwisePointwise


def in_sequence(*more: nn.Layer) -> nn.Sequential:
    return nn.Sequential(nn.Conv2D(8, 12, 3), nn.BatchNorm2D(12), *more)


LAYERS: dict[str, Callable[[], nn.Layer]] = {
    "ConvBN": lambda: ConvBN(8, 12, 3),
    "NamedConvBN": lambda: NamedConvBN(8, 12, 1, act="hardswish"),
    "of a neck": lambda: DepthwisePointwise(8, 8, 5, 2),
    "of a neck, one channel": lambda: DepthwisePointwise(8, 1, 5, last_act=False),
    "of a head": lambda: ConvNorm(8, 5, "hardswish", 8),
    "in a sequence": lambda: in_sequence(nn.ReLU6(), nn.Conv2D(12, 4, 1)),
    "in a sequence, nothing behind": in_sequence,
    "in a sequence, another activation": lambda: in_sequence(nn.GELU()),
    "in a sequence, twice": lambda: in_sequence(nn.Conv2D(12, 4, 1), nn.BatchNorm2D(4), nn.ReLU()),
}


def trained(layer: nn.Layer, monkeypatch: pytest.MonkeyPatch) -> tuple[list[np.ndarray], int]:
    """Output, gradients and what the layer keeps, after a step; how many normalisations are
    Paddle's."""
    calls = []
    stock = nn.BatchNorm2D.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            nn.BatchNorm2D, "forward", lambda self, x: (calls.append(1), stock(self, x))[1]
        )
        rng = np.random.default_rng(0)
        x = paddle.to_tensor(rng.standard_normal((3, 8, 9, 11)).astype(np.float32))
        x.stop_gradient = False
        y = layer(x)
        y.backward(paddle.to_tensor(rng.standard_normal(y.shape).astype(np.float32)))
    gradients = [p.grad.numpy() for p in layer.parameters() if p.grad is not None]
    kept = [value.numpy() for value in layer.state_dict().values()]
    return [y.numpy(), x.grad.numpy(), *gradients, *kept], len(calls)


def close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_no_normalisation_is_paddles(
    make: Callable[[], nn.Layer], native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = make()
    own = copy.deepcopy(stock)
    convert(own, native)
    expected, calls = trained(stock, monkeypatch)
    found, left = trained(own, monkeypatch)
    assert calls > 0 and left == 0
    close(found, expected)


@pytest.mark.parametrize("hooked", [0, 1, 2])
def test_a_hook_in_a_sequence_sees_its_layer(
    hooked: int, native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = in_sequence(nn.ReLU())
    own = copy.deepcopy(stock)
    convert(own, native)
    seen = []
    for layer in (stock, own):
        layer[hooked].register_forward_post_hook(lambda _, x, y: seen.append((x[0], y)))
    expected, _ = trained(stock, monkeypatch)
    found, _ = trained(own, monkeypatch)
    close(found, expected)
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-4)
