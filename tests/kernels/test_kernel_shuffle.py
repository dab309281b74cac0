"""ShuffleNet's halves and turns by the kernels: values and gradients of stock Paddle, fallbacks."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.models.layers import ConvBN
from ppcls_lite.models.shuffled import Shuffled
from tests.kernels.with_stock import (
    Watched,
    array,
    assert_close,
    assert_one_backward_pass,
    assert_same_bits,
    assert_same_statistics,
    pair,
    results,
)

SHAPES = ((3, 24, 14, 14), (2, 20, 7, 7), (4, 8, 1, 1), (2, 4, 3, 5), (1, 12, 40, 33))
assert_near = functools.partial(assert_close, limit=1e-4, share=0.01)


class Block(Shuffled):
    """`one` and `two`: layers of the branches."""

    def __init__(self, one: Sequence[nn.Layer], two: Sequence[nn.Layer]) -> None:
        super().__init__()
        self.one, self.two = nn.LayerList(one), nn.LayerList(two)

    def branches(self) -> tuple[Sequence[nn.Layer], Sequence[nn.Layer]]:
        return tuple(self.one), tuple(self.two)


class Scaled(nn.Layer):
    """A layer that the kernels do not know; `blocked`: without a gradient of its input."""

    def __init__(self, blocked: bool = False) -> None:
        super().__init__()
        self.blocked = blocked

    def forward(self, x: Tensor) -> Tensor:
        return (x.detach() if self.blocked else x) * 2


def convs(channels: int, halved: bool) -> Block:
    """A block of ShuffleNet whose convolutions end with their activations."""
    paddle.seed(channels)
    half = channels // 2
    inputs = half if halved else channels
    last = ConvBN(inputs, half, 1, act="relu"), ConvBN(half, half, 3, groups=half, act="hardswish")
    return Block([] if halved else [ConvBN(channels, half, 1, act=None)], last)


@pytest.mark.parametrize("halved", [True, False], ids=["half passes", "two branches"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_stock_paddle(
    shape: tuple[int, ...], halved: bool, native: ctypes.CDLL
) -> None:
    stock, watched = convs(shape[1], halved), Watched(native)
    own = pair(stock, watched)
    for with_x in (True, False):
        expected = results(stock, array(*shape), with_x)
        assert_near(results(own, array(*shape), with_x), expected)
    assert watched.called.count("shuffle_forward") == 2
    assert watched.called.count("half_forward") == (2 if halved else 0)
    assert watched.called.count("half_backward") == (1 if halved else 0)
    assert "norm_values" not in watched.called or shape[2] * shape[3] < 32


def test_the_last_normalisations_are_formed_where_they_are_written(native: ctypes.CDLL) -> None:
    stock = nn.Sequential(convs(12, False), convs(12, True), ConvBN(12, 6, 1, act="relu"))
    watched = Watched(native)
    own = pair(stock, watched)
    x = array(3, 12, 9, 8)
    assert_near(results(own, x), results(stock, x))
    assert watched.called.count("norm_values") == 1  # the last one's, which is asked for
    assert_same_statistics(own, stock)


@pytest.mark.parametrize("blocked", [False, True])
def test_branches_of_other_layers(blocked: bool, native: ctypes.CDLL) -> None:
    stock = Block([], [Scaled(blocked)])
    own = pair(stock, native)
    assert_near(results(own, array(2, 6, 6, 7)), results(stock, array(2, 6, 6, 7)), limit=0)


def test_a_branch_with_another_size_is_stock_paddle_s_error(native: ctypes.CDLL) -> None:
    stock = Block([], [nn.MaxPool2D(2)])
    for block in (stock, pair(stock, native)):
        block.train()
        with pytest.raises(ValueError, match="concat"):
            block(paddle.to_tensor(array(2, 6, 6, 8)))


def test_other_tensors_are_computed_by_paddle(native: ctypes.CDLL) -> None:
    watched = Watched(native)
    own = pair(Block([], [Scaled()]), watched)
    x = paddle.to_tensor(array(2, 6, 6, 8).astype(np.float64), stop_gradient=False)
    own.train()
    y = own(x)
    y.sum().backward()
    assert y.dtype == paddle.float64 and np.array_equal(y.numpy()[:, ::2], x.numpy()[:, :3])
    assert np.array_equal(np.unique(x.grad.numpy()), [1, 2])
    own.eval()
    assert np.array_equal(own(x.astype("float32"))[:, ::2], x.astype("float32")[:, :3])
    assert watched.called == []


def test_not_a_number_comes_through(native: ctypes.CDLL) -> None:
    own = pair(convs(8, True), native)
    x = array(2, 8, 6, 6)
    x[1, 2, 2, 2] = np.nan  # in the half that passes
    found = results(own, x)["y"]
    assert np.isnan(found[1, 4]).sum() == 1 and np.isnan(found).sum() == 1


@pytest.mark.parametrize("halved", [True, False])
def test_the_same_bits_for_any_number_of_threads(halved: bool, native: ctypes.CDLL) -> None:
    own = pair(convs(12, halved), native)
    assert_same_bits(own, native, array(7, 12, 9, 10))


def test_a_second_backward_pass_is_refused(native: ctypes.CDLL) -> None:
    assert_one_backward_pass(pair(convs(8, True), native))
