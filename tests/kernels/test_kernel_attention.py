"""Channel attention by the kernels: values and gradients of stock Paddle, fallbacks, bits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from ppcls_lite.kernels.layers import NativeAttention
from ppcls_lite.models.layers import ConvBN, SqueezeExcitation
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

SHAPES = ((5, 24, 14, 14), (3, 20, 7, 7), (4, 8, 1, 1), (2, 4, 3, 5), (1, 12, 40, 33))


@pytest.mark.parametrize("gate", [F.hardsigmoid, F.sigmoid])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_stock_paddle(
    shape: tuple[int, ...], gate: Callable, native: ctypes.CDLL
) -> None:
    paddle.seed(1)
    stock = SqueezeExcitation(shape[1], gate)
    watched = Watched(native)
    own = pair(stock, watched, at_least=3)
    for with_x in (True, False):
        expected = results(stock, array(*shape), with_x)
        assert_close(results(own, array(*shape), with_x), expected)
    assert watched.called.count("attention_forward") == 2
    assert watched.called.count("attention_input_backward") == 1  # nobody wants the other one


@pytest.mark.parametrize("act", [nn.Hardswish, nn.ReLU, nn.Identity])
def test_its_input_need_not_be_stored(act: type[nn.Layer], native: ctypes.CDLL) -> None:
    paddle.seed(2)
    blocks = ConvBN(6, 12, 1), SqueezeExcitation(12), ConvBN(12, 5, 1)
    stock = nn.Sequential(*blocks)
    for block in (blocks[0], blocks[2]):
        block.act = act()
    watched = Watched(native)
    own = pair(stock, watched, at_least=3)
    assert type(own[1]) is NativeAttention
    x = array(4, 6, 9, 10)
    # the last normalisation takes scales of its input away: those gradients are next to nothing
    assert_close(results(own, x), results(stock, x), 5e-4)
    assert watched.called.count("norm_values") == 1  # the last one's, which is asked for
    assert_same_statistics(own, stock)


def test_one_that_was_changed_is_stock(native: ctypes.CDLL) -> None:
    watched = Watched(native)
    own = pair(SqueezeExcitation(8), watched, at_least=3)
    seen = []
    own.avg_pool.register_forward_post_hook(lambda *a: seen.append(1))
    results(own, array(2, 8, 6, 6))
    own.eval()
    own(paddle.to_tensor(array(2, 8, 6, 6)))
    assert len(seen) == 2 and not [name for name in watched.called if "attention" in name]


def test_not_a_number_comes_through(native: ctypes.CDLL) -> None:
    own = pair(SqueezeExcitation(8), native, at_least=3)
    x = array(2, 8, 6, 6)
    x[1, 3, 2, 2] = np.nan
    found = results(own, x)
    assert np.isnan(found["y"][1]).any() and np.isfinite(found["y"][0]).all()
    assert np.isnan(found["x"][1]).any() and np.isnan(found["conv1.weight"]).any()


def test_the_same_bits_for_any_number_of_threads(native: ctypes.CDLL) -> None:
    paddle.seed(3)
    own = pair(
        nn.Sequential(ConvBN(6, 12, 1), SqueezeExcitation(12), ConvBN(12, 5, 1)), native, at_least=3
    )
    assert_same_bits(own, native, array(7, 6, 9, 10))


def test_a_second_backward_pass_is_refused(native: ctypes.CDLL) -> None:
    assert_one_backward_pass(pair(SqueezeExcitation(8), native, at_least=3))
