"""What the kernels' functions share: which tensors they know, where results go, shapes for C++.

Read next: ops.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor

from ppcls_lite.kernels.library import DenseShape, DepthwiseShape, NormShape

_FLOAT32, _CPU = paddle.float32, paddle.CPUPlace()
_Sizes = tuple[int, ...]
_for_each_shape = functools.lru_cache(maxsize=4096)


@dataclass(frozen=True)
class Window:
    """Kernel size, stride, padding and dilation, each (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def _sides(self, size: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Of each side: how far the padded input exceeds the kernel, and kernel and stride."""
        sides = zip(size, self.kernel, self.stride, self.padding, self.dilation)
        return ((s + 2 * p - (k - 1) * d - 1, k, step) for s, k, step, p, d in sides)

    def output(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output for an input of that `size`."""
        height, width = (spare // step + 1 for spare, _, step in self._sides(size))
        return height, width

    def numbers(self) -> tuple[int, ...]:
        """All of them, as the shapes of library.py end."""
        return *self.kernel, *self.stride, *self.padding, *self.dilation

    def fits(self, x: Sequence[int]) -> bool:
        """Whether an input (N, C, H, W) has elements and is, padded, no smaller than the kernel."""
        least = min(*self.kernel, *self.stride, *self.dilation)
        known = min(x) > 0 and least > 0 and min(self.padding) >= 0
        return known and all(spare >= 0 for spare, *_ in self._sides(x[2:]))


POINTWISE = Window((1, 1), (1, 1), (0, 0))


def are_plain(*tensors: Tensor) -> bool:
    """Whether all are float32 tensors of a CPU, outside a static graph."""
    if not paddle.in_dynamic_mode():
        return False
    for tensor in tensors:  # a loop, and `is` before the slow `==`: this runs for every layer
        kind = tensor.dtype
        if not (kind is _FLOAT32 or kind == _FLOAT32) or not tensor.place.is_cpu_place():
            return False
    return True


# What C++ is told about a call; None if the kernels do not know such a one.


@_for_each_shape
def depthwise_shape_of(x: _Sizes, weight: _Sizes, window: Window) -> DepthwiseShape | None:
    if len(x) != 4 or weight != (x[1], 1, *window.kernel) or not window.fits(x):
        return None
    return DepthwiseShape(*x, *window.output(x[2:]), *window.numbers())


@_for_each_shape
def dense_shape_of(x: _Sizes, weight: _Sizes, window: Window) -> DenseShape | None:
    if len(x) != 4 or len(weight) != 4 or weight[0] < 1:
        return None
    if weight[1:] != (x[1], *window.kernel) or not window.fits(x):
        return None
    return DenseShape(*x, weight[0], *window.output(x[2:]), *window.numbers())


@_for_each_shape
def linear_shape_of(x: _Sizes, weight: _Sizes) -> DenseShape | None:
    if len(x) != 2 or len(weight) != 2 or x[1] != weight[0] or 0 in (*x, *weight):
        return None
    inputs, outputs = weight
    return DenseShape(1, inputs, 1, outputs, x[0], 1, outputs, *POINTWISE.numbers())


@_for_each_shape
def norm_shape_of(
    sizes: tuple[_Sizes, ...], epsilon: float, momentum: float, activation: int
) -> NormShape | None:
    x, *vectors = sizes
    if len(x) != 4 or 0 in x or any(vector != (x[1],) for vector in vectors):
        return None
    n, c, h, w = x
    return NormShape(n, c, h * w, epsilon, momentum, activation) if n * h * w > 1 else None


class _Once:
    """A hook that stops a second backward pass over a kept graph, before Paddle crashes in it.

    Paddle frees what a PyLayer has kept after the first pass, whatever `retain_graph` says.
    """

    def __init__(self) -> None:
        self._done = False

    def __call__(self, gradient: Tensor) -> None:
        if self._done:
            raise RuntimeError(
                "a second backward pass over the same forward pass: the CPU kernels keep what it "
                "needs for one only; run the network again, or set Global.cpu_kernels: off"
            )
        self._done = True


def once(y: Tensor) -> Tensor:
    if not y.stop_gradient:
        y.register_hook(_Once())
    return y


def checked_gradient(dy: Tensor, shape: Sequence[int]) -> Tensor:
    """`dy` in memory without gaps; raises ValueError if a hook has made another tensor of it."""
    if list(dy.shape) != list(shape) or not are_plain(dy):
        raise ValueError(
            f"a gradient of shape {list(dy.shape)}, {dy.dtype}, {dy.place} came for an output of "
            f"shape {list(shape)}, float32, on the CPU: a hook must not change them"
        )
    return without_gaps(dy)


def wanted_by(*inputs: Tensor) -> tuple[bool, ...]:
    """For which of the inputs a gradient is wanted; frozen parameters want none."""
    return tuple(not tensor.stop_gradient for tensor in inputs)


def chosen(wanted: Sequence[bool], *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Paddle insists on None where no gradient is wanted."""
    return tuple(gradient if want else None for want, gradient in zip(wanted, gradients))


def new_tensor(shape: Sequence[int]) -> Tensor:
    """A tensor for results; `paddle.empty` itself would take a third of a small kernel's time."""
    return paddle._C_ops.empty(shape, _FLOAT32, _CPU)


def without_gaps(tensor: Tensor) -> Tensor:
    """`tensor` in memory without gaps."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def addresses(*tensors: Tensor | None) -> list[int | None]:
    """Where the values lie; the callers hold the tensors until the C function returns."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
