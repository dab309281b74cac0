"""What tests of the kernels share: networks with them beside stock ones, and what was called."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable

import numpy as np
import paddle
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


def assert_close(found: Results, expected: Results, limit: float = 1e-4) -> None:
    """A tensor's largest difference, relative to its largest value.

    The gradient of a shift before another normalisation is nothing but rounding, so a gradient
    counts as no smaller than a hundredth of the largest one.
    """
    assert found.keys() == expected.keys()
    least = max(np.abs(value).max() for name, value in expected.items() if name != "y") / 100
    for name, value in expected.items():
        worst = np.abs(found[name] - value).max() / max(np.abs(value).max(), least)
        assert worst <= limit, (name, worst)


def pair(stock: nn.Layer, library: object) -> nn.Layer:
    own = copy.deepcopy(stock)
    assert convert(own, library) >= 1
    return own
