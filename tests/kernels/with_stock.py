"""What tests of the kernels share: networks with them beside stock ones, and what was called."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.kernels import convert

Results = dict[str, np.ndarray]


class Watched:
    """The library, and which of its functions were called."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        self.called.append(name)
        return getattr(self.library, name)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def results(model: nn.Layer, x: np.ndarray, with_x: bool = True) -> Results:
    """Output, gradients of the input and of all parameters."""
    model.train()
    image = paddle.to_tensor(x, stop_gradient=not with_x)
    y = model(image)
    (y * paddle.to_tensor(array(*y.shape, 7)[..., 0])).sum().backward()
    found = {"y": y.numpy()} | ({"x": image.grad.numpy()} if with_x else {})
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.numpy()
        parameter.clear_gradient()
    return found


def assert_close(
    found: Results, expected: Results, limit: float = 1e-5, share: float = 0.0
) -> None:
    """A tensor's largest difference, relative to its largest value.

    The gradient of a shift before another normalisation is nothing but rounding: where there are
    such, a gradient counts as no smaller than that `share` of the largest one.
    """
    assert found.keys() == expected.keys()
    largest = max(np.abs(value).max() for name, value in expected.items() if name != "y")
    for name, value in expected.items():
        size = max(np.abs(value).max(), share * largest, 1e-6)
        worst = np.abs(found[name] - value).max() / size
        assert worst <= limit, (name, worst)


def pair(stock: nn.Layer, library: object, at_least: int = 1) -> nn.Layer:
    """A copy of `stock` of which so many layers have the kernels."""
    own = copy.deepcopy(stock)
    assert convert(own, library) >= at_least
    return own


def assert_same_statistics(own: nn.Layer, stock: nn.Layer) -> None:
    for a, b in zip(own.sublayers(), stock.sublayers()):
        if isinstance(b, nn.BatchNorm2D):
            assert np.allclose(a._variance.numpy(), b._variance.numpy(), rtol=1e-5)


def assert_same_bits(own: nn.Layer, library: ctypes.CDLL, x: np.ndarray) -> None:
    """Whatever the number of threads."""
    found = []
    for threads in (1, 2, 3, 8):
        library.use_threads(threads)
        found.append({k: v.tobytes() for k, v in results(own, x).items()})
    library.use_threads(1)
    assert all(one == found[0] for one in found)


def assert_one_backward_pass(own: nn.Layer) -> None:
    own.train()
    loss = own(paddle.to_tensor(array(2, 8, 6, 6), stop_gradient=False)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(OSError, match="second backward pass"):
        loss.backward()
