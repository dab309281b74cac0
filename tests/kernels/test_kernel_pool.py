"""Pooling by the kernels: values and gradients of stock Paddle, ties, NaN, fallbacks, bits."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.kernels.layers import NativeMaxPool
from ppcls_lite.models.layers import ConvBN
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

SHAPES = ((5, 24, 14, 14), (2, 3, 7, 9), (1, 17, 33, 6), (3, 20, 112, 112))
KINDS = nn.MaxPool2D, nn.AvgPool2D
WINDOWS = {
    "stem": {"kernel_size": 3, "stride": 2, "padding": 1},
    "shortcut": {"kernel_size": 2, "stride": 2, "padding": "SAME"},
    "same": {"kernel_size": 2, "stride": 1, "padding": "SAME"},
    "ceil": {"kernel_size": 3, "stride": 2, "padding": 0, "ceil_mode": True},
    "valid": {"kernel_size": [2, 3], "stride": [3, 2], "padding": "VALID"},
    "apart": {"kernel_size": 2, "stride": 4, "padding": [1, 0]},
    "pyramid": {"kernel_size": 5, "stride": 1, "padding": 2},
    "no stride": {"kernel_size": (3, 2)},
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_values_and_gradients_are_those_of_stock_paddle(
    kind: type[nn.Layer], name: str, native: ctypes.CDLL
) -> None:
    stock = kind(**WINDOWS[name])
    watched = Watched(native)
    own = pair(stock, watched)
    for shape in SHAPES:
        ties = np.round(array(*shape))  # many windows have their largest value several times
        for x in (array(*shape), ties):
            assert_close(results(own, x), results(stock, x), 1e-6)
    assert watched.called.count("pool_backward") == 2 * len(SHAPES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_its_input_need_not_be_stored(kind: type[nn.Layer], native: ctypes.CDLL) -> None:
    paddle.seed(2)
    for act, size in itertools.product((nn.Hardswish, nn.ReLU, nn.Identity), (20, 113)):
        stock = nn.Sequential(ConvBN(3, 18, 3, 2), kind(3, 2, 1), ConvBN(18, 5, 1))
        stock[0].act = act()
        watched = Watched(native)
        own = pair(stock, watched, at_least=4)
        x = array(4, 3, size, size)
        assert_close(results(own, x), results(stock, x), 5e-4, share=0.01)
        assert watched.called.count("norm_values") == 1  # the last one's, which is asked for
        assert_same_statistics(own, stock)


def test_what_is_not_a_number_is_what_paddle_makes_of_it(native: ctypes.CDLL) -> None:
    stock = nn.MaxPool2D(3, 2, 1)
    own = pair(stock, native)
    x = array(2, 18, 9, 9)
    x[0, 3, 4, 4], x[1, 5, 0, 0], x[1, 17, :, :] = np.nan, np.inf, -np.inf
    found, expected = results(own, x), results(stock, x)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    average = results(pair(nn.AvgPool2D(2), native), x)
    assert np.isnan(average["y"][0, 3]).any() and np.isfinite(average["y"][0, 4]).all()


@pytest.mark.parametrize(
    "other",
    [
        {"kernel_size": 2, "padding": 1, "exclusive": False},
        {"kernel_size": 2, "divisor_override": 3},
        {"kernel_size": 2, "padding": [0, 1, 1, 0]},
        {"kernel_size": 2, "data_format": "NHWC"},
    ],
    ids=str,
)
def test_another_kind_of_pooling_is_stock(other: dict, native: ctypes.CDLL) -> None:
    stock = nn.AvgPool2D(**other)
    watched = Watched(native)
    own = pair(stock, watched)
    x = array(2, 4, 6, 8)
    assert_close(results(own, x), results(stock, x), 1e-6)
    assert not watched.called


def test_a_hook_or_evaluation_makes_it_stock(native: ctypes.CDLL) -> None:
    watched = Watched(native)
    own = pair(nn.Sequential(ConvBN(3, 8, 3), nn.MaxPool2D(3, 2, 1)), watched, at_least=3)
    assert type(own[1]) is NativeMaxPool
    own.eval()
    own(paddle.to_tensor(array(2, 3, 6, 6)))
    assert "pool_forward" not in watched.called
    seen = []
    own[1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape))
    results(own, array(2, 3, 6, 6))
    assert seen == [[2, 8, 6, 6]] and watched.called.count("norm_values") == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_threads_do_not_change_bits(kind: type[nn.Layer], native: ctypes.CDLL) -> None:
    own = pair(nn.Sequential(ConvBN(3, 40, 3), kind(3, 2, 1)), native, at_least=3)
    assert_same_bits(own, native, array(4, 3, 40, 40))


def test_one_backward_pass(native: ctypes.CDLL) -> None:
    assert_one_backward_pass(pair(nn.MaxPool2D(2), native))
