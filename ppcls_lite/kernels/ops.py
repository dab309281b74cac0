"""The kernels as differentiable functions of tensors: float32 on a CPU, NCHW.

Each is a PyLayer around two C functions, which check nothing: so every call compares types, places
and sizes with what they rely on, and anything else (another number of channels, weights of another
type, a tensor without elements, batch normalisation of a single value per channel) goes to Paddle's
own operator, for its result or its error. Outputs are written in place into new tensors; inputs
are read where they lie (copied first if they are a view with gaps). A gradient that nobody wants is
not computed. There are no second derivatives, and one backward pass for each forward.
Read next: deferred.py (a convolution and its normalisation); pixels.py (segmentation); swap.py,
which puts them into a network; source/.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.library import DenseShape, DepthwiseShape, NormShape
from ppcls_lite.kernels.tensors import (
    Window,
    addresses,
    are_plain,
    checked_gradient,
    chosen,
    dense_shape_of,
    depthwise_shape_of,
    linear_shape_of,
    new_tensor,
    norm_shape_of,
    once,
    wanted_by,
    without_gaps,
)

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "hardswish": 3}  # as in source/activations.h
STOCK_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}


def depthwise_conv(x: Tensor, weight: Tensor, window: Window, library: ctypes.CDLL) -> Tensor:
    """x (N, C, H, W), weight (C, 1, kh, kw) -> (N, C, H', W')."""
    shape = are_plain(x, weight) and depthwise_shape_of(tuple(x.shape), tuple(weight.shape), window)
    if not shape:
        return _stock_conv(x, weight, window, groups=weight.shape[0])
    return once(_Depthwise.apply(x, weight, shape, library))


def dense_conv(x: Tensor, weight: Tensor, window: Window, library: ctypes.CDLL) -> Tensor:
    """x (N, C, H, W), weight (D, C, kh, kw) -> (N, D, H', W')."""
    shape = are_plain(x, weight) and dense_shape_of(tuple(x.shape), tuple(weight.shape), window)
    if not shape:
        return _stock_conv(x, weight, window, groups=1)
    return once(_Dense.apply(x, weight, shape, library))


def linear(x: Tensor, weight: Tensor, library: ctypes.CDLL) -> Tensor:
    """x (N, C), weight (C, D) -> (N, D): a 1x1 convolution of the weights by the rows of x."""
    shape = are_plain(x, weight) and linear_shape_of(tuple(x.shape), tuple(weight.shape))
    if not shape:
        return F.linear(x, weight)
    return once(_Linear.apply(x, weight, shape, library))


def norm_act(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    running: tuple[Tensor, Tensor],
    options: tuple[float, float, str | None],
    library: ctypes.CDLL,
    bias: Tensor | None = None,
) -> Tensor:
    """Batch normalisation of x (N, C, H, W) with the batch's statistics, then the activation.

    `running`: running mean and variance (C,), which are updated in place. `options`: epsilon,
    momentum and a key of `ACTIVATIONS`. Like Paddle's operator it passes a single value per channel
    on as it is, and leaves the statistics alone for it and for an empty batch.
    `bias` (C,): what a convolution would have added to x. The mean takes it away again, so that
    only the running mean sees it, and its gradient is 0.
    """
    vectors = (scale, shift, *running) if bias is None else (scale, shift, *running, bias)
    epsilon, momentum, act = options
    shape = None
    if are_plain(x, *vectors) and all(v.is_contiguous() for v in vectors):
        sizes = tuple(x.shape), *(tuple(v.shape) for v in vectors)
        shape = norm_shape_of(sizes, epsilon, momentum, ACTIVATIONS[act])
    if not shape:
        x = x if bias is None else x + bias.reshape([1, -1, 1, 1])
        y = F.batch_norm(x, *running, scale, shift, True, momentum, epsilon)
        return STOCK_ACTIVATIONS[act](y)
    return once(_NormAct.apply(x, scale, shift, bias, running, shape, library))


def _stock_conv(x: Tensor, weight: Tensor, window: Window, groups: int) -> Tensor:
    sides = (list(pair) for pair in (window.stride, window.padding, window.dilation))
    return F.conv2d(x, weight, None, *sides, groups)


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: DepthwiseShape, library: Any) -> Tensor:
        wanted = wanted_by(x, weight)
        x, weight = without_gaps(x), without_gaps(weight)
        y = new_tensor([shape.n, shape.c, shape.out_h, shape.out_w])
        library.depthwise_forward(*addresses(x, weight, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _conv_gradients(ctx, dy, ctx.rest[1].depthwise_backward)


class _Dense(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: DenseShape, library: Any) -> Tensor:
        wanted = wanted_by(x, weight)
        x, weight = without_gaps(x), without_gaps(weight)
        y = new_tensor([shape.n, shape.outputs, shape.out_h, shape.out_w])
        library.dense_forward(*addresses(x, weight, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _conv_gradients(ctx, dy, ctx.rest[1].dense_backward)


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: DenseShape, library: Any) -> Tensor:
        wanted = wanted_by(x, weight)
        x, weight = without_gaps(x), without_gaps(weight)
        y = new_tensor([shape.outputs, shape.w])
        library.dense_forward(*addresses(weight, x, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, library, wanted = ctx.rest
        x, weight = ctx.saved_tensor()
        dy, dx = checked_gradient(dy, [shape.outputs, shape.w]), new_tensor(x.shape)
        dweight = new_tensor(weight.shape) if wanted[1] else None
        library.dense_backward(*addresses(weight, x, dy, dweight, dx), shape)
        return chosen(wanted, dx, dweight)


class _NormAct(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor],
        shape: NormShape,
        library: Any,
    ) -> Tensor:
        inputs = (x, scale, shift) if bias is None else (x, scale, shift, bias)
        wanted = wanted_by(*inputs)
        x = without_gaps(x)
        y, mean, inverse = new_tensor(x.shape), new_tensor([shape.c]), new_tensor([shape.c])
        library.norm_forward(*addresses(x, scale, shift, *running, y, mean, inverse), shape)
        if bias is not None:
            running[0].add_((1 - shape.momentum) * bias)
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, library, wanted = ctx.rest
        saved = ctx.saved_tensor()
        x, scale, shift = saved[:3]
        dy = checked_gradient(dy, x.shape)
        dx = new_tensor(x.shape) if wanted[0] else None
        dscale, dshift = new_tensor(scale.shape), new_tensor(shift.shape)
        library.norm_backward(*addresses(*saved, dy, dx, dscale, dshift), shape)
        dbias = [paddle.zeros([shape.c])] if len(wanted) > 3 else []
        return chosen(wanted, dx, dscale, dshift, *dbias)


def _conv_gradients(ctx: Any, dy: Tensor, function: Any) -> tuple[Tensor | None, ...]:
    shape, _, wanted = ctx.rest
    x, weight = ctx.saved_tensor()
    dy = checked_gradient(dy, [shape.n, weight.shape[0], shape.out_h, shape.out_w])
    dx, dweight = new_tensor(x.shape) if wanted[0] else None, new_tensor(weight.shape)
    function(*addresses(x, weight, dy, dx, dweight), shape)
    return chosen(wanted, dx, dweight)
