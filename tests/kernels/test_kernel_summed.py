"""Sums of branches by the kernels: values and gradients of stock Paddle, fallbacks, bits."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.models.layers import ConvBN, LearnableAffine, Summed
from ppcls_lite.models.pplcnet_v3 import AffineHardswish, BranchedConv
from tests.kernels.with_stock import (
    Watched,
    array,
    assert_close,
    assert_one_backward_pass,
    assert_same_bits,
    pair,
    results,
)

SHAPES = ((3, 24, 14, 14), (2, 20, 7, 7), (4, 8, 1, 1), (2, 4, 3, 5), (1, 12, 40, 33))
assert_near = functools.partial(assert_close, limit=1e-4, share=0.01)


class Block(Summed):
    """`inside`: its branches. `behind`: the layers behind the sum."""

    def __init__(self, inside: Sequence[nn.Layer], behind: Sequence[nn.Layer] = ()) -> None:
        super().__init__()
        self.inside, self.behind = nn.LayerList(inside), nn.LayerList(behind)

    def branches(self) -> Sequence[Sequence[nn.Layer]]:
        """An identity stands for the input itself."""
        return [[] if isinstance(one, nn.Identity) else [one] for one in self.inside]

    def finish(self) -> Sequence[nn.Layer]:
        return list(self.behind)


def affine(factor: float, shift: float) -> LearnableAffine:
    layer = LearnableAffine()
    layer.scale.set_value(paddle.full([1], factor))
    layer.bias.set_value(paddle.full([1], shift))
    return layer


def affine_hardswish() -> AffineHardswish:
    layer = AffineHardswish(1.0)
    layer.lab = affine(0.8, 0.3)
    return layer


FINISHES = {
    "nothing": list,
    "relu": lambda: [nn.ReLU()],
    "relu6 between": lambda: [affine(2.0, 1.0), nn.ReLU6(), affine(-0.7, 0.2)],
    "affine": lambda: [affine(-1.5, 0.2)],
    "version 3": lambda: [affine(1.5, 0.2), affine_hardswish()],
    "hard-swish behind": lambda: [nn.Hardswish(), affine(1.5, -0.2)],
    "more than is known": lambda: [affine(1.5, 0.2), affine(0.5, 0.1), nn.GELU()],
}


def branches(channels: int) -> list[nn.Layer]:
    """Convolutions that end linear and with an activation, a normalisation, the input itself."""
    paddle.seed(channels)
    return [
        ConvBN(channels, channels, 3, groups=channels, act=None),
        ConvBN(channels, channels, 1, act="relu"),
        nn.BatchNorm2D(channels),
        nn.Identity(),
        ConvBN(channels, channels, 5, groups=channels, act=None),
    ]


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_stock_paddle(
    shape: tuple[int, ...], finish: str, native: ctypes.CDLL
) -> None:
    stock, watched = Block(branches(shape[1]), FINISHES[finish]()), Watched(native)
    own = pair(stock, watched)
    for with_x in (True, False):
        expected = results(stock, array(*shape), with_x)
        assert len(expected) > 10
        assert_near(results(own, array(*shape), with_x), expected)
    assert watched.called.count("sum_forward") == watched.called.count("sum_backward") == 2
    assert "norm_values" not in watched.called or shape[2] * shape[3] < 32


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 12])
def test_the_branches_of_version_3(stride: int, groups: int, native: ctypes.CDLL) -> None:
    paddle.seed(7)
    blocks = [BranchedConv(12, 12, 3, stride, groups, 1.0, applied=(stride, 1)) for _ in range(2)]
    for block in blocks:
        block.lab, block.act.lab = affine(1.3, 0.1), affine(0.8, -0.1)
    stock, watched = nn.Sequential(*blocks), Watched(native)
    own = pair(stock, watched)
    x = array(3, 12, 26, 28)
    assert_near(results(own, x), results(stock, x), limit=5e-4)
    assert watched.called.count("sum_forward") == 2 and "norm_values" not in watched.called
    own.eval()
    before = own(paddle.to_tensor(x))
    assert all(block.merge() for block in own)
    assert np.allclose(own(paddle.to_tensor(x)), before, atol=1e-4)
    own.train()  # one branch is no sum
    assert np.allclose(own(paddle.to_tensor(x)), before, atol=1e-4)
    assert watched.called.count("sum_forward") == 2


def test_hooks_are_heard(native: ctypes.CDLL) -> None:
    stock = Block(branches(6), [affine(1.5, 0.2), affine_hardswish()])
    own, heard = pair(stock, native), []
    for layer in (own.behind[0], own.behind[1].lab, own.inside[0]):
        layer.register_forward_post_hook(lambda layer, *_: heard.append(type(layer).__name__))
    assert_near(results(own, array(2, 6, 8, 9)), results(stock, array(2, 6, 8, 9)))
    assert heard == ["NativeConvBN", "LearnableAffine", "LearnableAffine"]


def test_a_frozen_branch_and_frozen_numbers(native: ctypes.CDLL) -> None:
    stock = Block(branches(6), [affine(1.5, 0.2), nn.ReLU(), affine(2.0, 0.5)])
    for frozen in (stock.inside[0], stock.behind[0]):
        for parameter in frozen.parameters():
            parameter.stop_gradient = True
    own = pair(stock, native)
    assert_near(results(own, array(2, 6, 8, 9)), results(stock, array(2, 6, 8, 9)))


def test_branches_of_two_sizes_are_stock_paddle_s_error(native: ctypes.CDLL) -> None:
    stock = Block([nn.Identity(), nn.MaxPool2D(2)])
    for block in (stock, pair(stock, native)):
        block.train()
        with pytest.raises(ValueError, match="shape"):
            block(paddle.to_tensor(array(2, 6, 6, 8)))


def test_other_tensors_are_computed_by_paddle(native: ctypes.CDLL) -> None:
    watched = Watched(native)
    own = pair(Block([nn.Identity(), nn.Identity()], [nn.ReLU()]), watched)
    own.train()
    x = paddle.to_tensor(array(2, 6, 6, 8).astype(np.float64))
    assert np.array_equal(own(x), 2 * np.maximum(x.numpy(), 0))
    own.eval()
    assert own(x.astype("float32")).dtype == paddle.float32
    assert watched.called == []


def test_not_a_number_comes_through(native: ctypes.CDLL) -> None:
    own = pair(Block([nn.Identity(), nn.Identity()], [affine(2.0, 1.0), nn.Hardswish()]), native)
    x = array(2, 8, 6, 6)
    x[1, 2, 2, 2] = np.nan
    found = results(own, x)
    assert np.isnan(found["y"][1, 2, 2, 2]) and np.isnan(found["y"]).sum() == 1
    assert np.isnan(found["behind.0.scale"]).all()


def test_the_same_bits_for_any_number_of_threads(native: ctypes.CDLL) -> None:
    own = pair(Block(branches(12), FINISHES["version 3"]()), native)
    assert_same_bits(own, native, array(7, 12, 9, 10))


def test_a_second_backward_pass_is_refused(native: ctypes.CDLL) -> None:
    assert_one_backward_pass(pair(Block(branches(8)), native))
