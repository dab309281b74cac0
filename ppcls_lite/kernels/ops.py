"""The kernels as differentiable functions of tensors: float32 on a CPU, NCHW.

Each is a PyLayer around two C functions. Outputs are written in place into new tensors; inputs are
read where they lie (copied first if they are a view with gaps). A gradient that nobody wants is
not computed. There are no second derivatives. Read next: swap.py, which puts them into a
network; source/.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.library import DenseShape, DepthwiseShape, NormShape

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "hardswish": 3}  # as in source/norm.cpp


@dataclass(frozen=True)
class Window:
    """Kernel size, stride and padding, each (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def output(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output for an input of that `size`."""
        sides = zip(size, self.kernel, self.stride, self.padding)
        height, width = ((s + 2 * p - k) // step + 1 for s, k, step, p in sides)
        return height, width


def depthwise_conv(x: Tensor, weight: Tensor, window: Window, library: ctypes.CDLL) -> Tensor:
    """x (N, C, H, W), weight (C, 1, kh, kw) -> (N, C, H', W')."""
    return _Depthwise.apply(x, weight, window, library)


def dense_conv(x: Tensor, weight: Tensor, window: Window, library: ctypes.CDLL) -> Tensor:
    """x (N, C, H, W), weight (D, C, k, k) -> (N, D, H', W').

    The gradient of `x` exists for 1x1 kernels of stride 1 only; of others `x` must not want one.
    """
    return _Dense.apply(x, weight, window, library)


def linear(x: Tensor, weight: Tensor, library: ctypes.CDLL) -> Tensor:
    """x (N, C), weight (C, D) -> (N, D): a 1x1 convolution of the weights by the rows of x."""
    return _Linear.apply(x, weight, library)


def norm_act(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    running: tuple[Tensor, Tensor],
    options: tuple[float, float, str | None],
    library: ctypes.CDLL,
) -> Tensor:
    """Batch normalisation of x (N, C, H, W) with the batch's statistics, then the activation.

    `running`: running mean and variance (C,), which are updated in place. `options`: epsilon,
    momentum and a key of `ACTIVATIONS`.
    """
    return _NormAct.apply(x, scale, shift, running, options, library)


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, window: Window, library: Any) -> Tensor:
        wanted = _wanted(x, weight)
        x, weight = _dense_memory(x), _dense_memory(weight)
        n, c, h, w = x.shape
        out = window.output((h, w))
        shape = DepthwiseShape(n, c, h, w, *out, *window.kernel, *window.stride, *window.padding)
        y = _new([n, c, *out])
        library.depthwise_forward(*_addresses(x, weight, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _conv_gradients(ctx, dy, ctx.rest[1].depthwise_backward)


class _Dense(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, window: Window, library: Any) -> Tensor:
        wanted = _wanted(x, weight)
        x, weight = _dense_memory(x), _dense_memory(weight)
        n, c, h, w = x.shape
        outputs, out = weight.shape[0], window.output((h, w))
        window_numbers = window.kernel[0], *window.stride, window.padding[0]
        shape = DenseShape(n, c, h, w, outputs, *out, *window_numbers)
        y = _new([n, outputs, *out])
        library.dense_forward(*_addresses(x, weight, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _conv_gradients(ctx, dy, ctx.rest[1].dense_backward)


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, library: Any) -> Tensor:
        wanted = _wanted(x, weight)
        x, weight = _dense_memory(x), _dense_memory(weight)
        n, (inputs, outputs) = x.shape[0], weight.shape
        shape = DenseShape(1, inputs, 1, outputs, n, 1, outputs, 1, 1, 1, 0)
        y = _new([n, outputs])
        library.dense_forward(*_addresses(weight, x, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, library, wanted = ctx.rest
        x, weight = ctx.saved_tensor()
        dy, dx = _dense_memory(dy), _new(x.shape)
        dweight = _new(weight.shape) if wanted[1] else None
        library.dense_backward(*_addresses(weight, x, dy, dweight, dx), shape)
        return _chosen(wanted, dx, dweight)


class _NormAct(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        running: tuple[Tensor, Tensor],
        options: tuple[float, float, str | None],
        library: Any,
    ) -> Tensor:
        wanted = _wanted(x, scale, shift)
        x = _dense_memory(x)
        n, c, h, w = x.shape
        epsilon, momentum, act = options
        shape = NormShape(n, c, h * w, epsilon, momentum, ACTIVATIONS[act])
        y, mean, inverse = _new([n, c, h, w]), _new([c]), _new([c])
        library.norm_forward(*_addresses(x, scale, shift, *running, y, mean, inverse), shape)
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, library, wanted = ctx.rest
        saved, dy = ctx.saved_tensor(), _dense_memory(dy)
        x, scale, shift = saved[:3]
        dx = _new(x.shape) if wanted[0] else None
        dscale, dshift = _new(scale.shape), _new(shift.shape)
        addresses = _addresses(*saved, dy, dx, dscale, dshift)
        library.norm_backward(*addresses, shape)
        return _chosen(wanted, dx, dscale, dshift)


def _conv_gradients(ctx: Any, dy: Tensor, function: Any) -> tuple[Tensor | None, ...]:
    shape, _, wanted = ctx.rest
    x, weight = ctx.saved_tensor()
    dy = _dense_memory(dy)
    dx, dweight = _new(x.shape) if wanted[0] else None, _new(weight.shape)
    function(*_addresses(x, weight, dy, dx, dweight), shape)
    return _chosen(wanted, dx, dweight)


def _wanted(*inputs: Tensor) -> tuple[bool, ...]:
    """For which of the inputs a gradient is wanted; frozen parameters want none."""
    return tuple(not tensor.stop_gradient for tensor in inputs)


def _chosen(wanted: Sequence[bool], *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Paddle insists on None where no gradient is wanted."""
    return tuple(gradient if want else None for want, gradient in zip(wanted, gradients))


def _new(shape: Sequence[int]) -> Tensor:
    return paddle.empty(shape, "float32")


def _dense_memory(tensor: Tensor) -> Tensor:
    """`tensor` in memory without gaps."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    """Where the values lie; the callers hold the tensors until the C function returns."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
