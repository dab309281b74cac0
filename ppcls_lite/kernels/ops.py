"""The kernels as differentiable functions of tensors: float32 on a CPU, NCHW.

Each is a PyLayer around two C functions, which check nothing: so every call compares types, places
and sizes with what they rely on, and anything else (another number of channels, weights of another
type, a tensor without elements, batch normalisation of a single value per channel) goes to Paddle's
own operator, for its result or its error. Outputs are written in place into new tensors; inputs
are read where they lie (copied first if they are a view with gaps). A gradient that nobody wants is
not computed. There are no second derivatives, and one backward pass for each forward.
Read next: swap.py, which puts them into a network; source/.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.library import DenseShape, DepthwiseShape, NormShape
from ppcls_lite.ops.interpolation import linear_neighbours

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "hardswish": 3}  # as in source/norm.cpp
STOCK_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
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


def depthwise_conv(x: Tensor, weight: Tensor, window: Window, library: ctypes.CDLL) -> Tensor:
    """x (N, C, H, W), weight (C, 1, kh, kw) -> (N, C, H', W')."""
    shape = are_plain(x, weight) and _depthwise_shape(tuple(x.shape), tuple(weight.shape), window)
    if not shape:
        return _stock_conv(x, weight, window, groups=weight.shape[0])
    return _once(_Depthwise.apply(x, weight, shape, library))


def dense_conv(x: Tensor, weight: Tensor, window: Window, library: ctypes.CDLL) -> Tensor:
    """x (N, C, H, W), weight (D, C, kh, kw) -> (N, D, H', W')."""
    shape = are_plain(x, weight) and _dense_shape(tuple(x.shape), tuple(weight.shape), window)
    if not shape:
        return _stock_conv(x, weight, window, groups=1)
    return _once(_Dense.apply(x, weight, shape, library))


def linear(x: Tensor, weight: Tensor, library: ctypes.CDLL) -> Tensor:
    """x (N, C), weight (C, D) -> (N, D): a 1x1 convolution of the weights by the rows of x."""
    shape = are_plain(x, weight) and _linear_shape(tuple(x.shape), tuple(weight.shape))
    if not shape:
        return F.linear(x, weight)
    return _once(_Linear.apply(x, weight, shape, library))


def enlarged(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """x (N, C, h, w) -> (N, C, *size) by bilinear interpolation.

    Each axis is a product with a matrix of shares: on a CPU its gradient is several times faster
    than the one of Paddle's operator.
    """
    axes = zip(x.shape[2:], size)
    rows, columns = (_shares(small, large, align_corners) for small, large in axes)
    along_width = paddle.matmul(x, paddle.to_tensor(columns))  # (N, C, h, W)
    return paddle.matmul(paddle.to_tensor(rows.T), along_width)  # (N, C, H, W)


@functools.lru_cache(maxsize=64)
def _shares(small: int, large: int, align_corners: bool) -> np.ndarray:
    """How much each of `small` pixels adds to each of `large` (small, large) float32."""
    low, high, share = linear_neighbours(small, large, align_corners)
    found = np.zeros((small, large), np.float32)
    np.add.at(found, (low, np.arange(large)), 1 - share)
    np.add.at(found, (high, np.arange(large)), share)
    return found


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
        shape = _norm_shape(sizes, epsilon, momentum, ACTIVATIONS[act])
    if not shape:
        x = x if bias is None else x + bias.reshape([1, -1, 1, 1])
        y = F.batch_norm(x, *running, scale, shift, True, momentum, epsilon)
        return STOCK_ACTIVATIONS[act](y)
    return _once(_NormAct.apply(x, scale, shift, bias, running, shape, library))


def conv_norm_act(
    x: Tensor,
    weight: Tensor,
    window: Window,
    depthwise: bool,
    norm: tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[float, float, str | None]],
    library: ctypes.CDLL,
    bias: Tensor | None = None,
) -> Tensor:
    """A convolution and the normalisation behind it, in one call each way.

    `weight` is that of `depthwise_conv` or of `dense_conv`; `norm`: scale, shift, running and
    options of `norm_act`, as `bias` is.
    """
    scale, shift, running, (epsilon, momentum, act) = norm
    vectors = (scale, shift, *running) if bias is None else (scale, shift, *running, bias)
    shape = norm_shape = None
    if are_plain(x, weight, *vectors) and all(v.is_contiguous() for v in vectors):
        shape_of = _depthwise_shape if depthwise else _dense_shape
        shape = shape_of(tuple(x.shape), tuple(weight.shape), window)
        if shape:
            y = shape.n, weight.shape[0], shape.out_h, shape.out_w
            sizes = y, *(tuple(v.shape) for v in vectors)
            norm_shape = _norm_shape(sizes, epsilon, momentum, ACTIVATIONS[act])
    if not norm_shape:
        conv = depthwise_conv if depthwise else dense_conv
        return norm_act(conv(x, weight, window, library), *norm, library, bias)
    shapes = shape, norm_shape
    return _once(_ConvNorm.apply(x, weight, scale, shift, bias, running, shapes, library))


def _stock_conv(x: Tensor, weight: Tensor, window: Window, groups: int) -> Tensor:
    sides = (list(pair) for pair in (window.stride, window.padding, window.dilation))
    return F.conv2d(x, weight, None, *sides, groups)


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
def _depthwise_shape(x: _Sizes, weight: _Sizes, window: Window) -> DepthwiseShape | None:
    if len(x) != 4 or weight != (x[1], 1, *window.kernel) or not window.fits(x):
        return None
    return DepthwiseShape(*x, *window.output(x[2:]), *window.numbers())


@_for_each_shape
def _dense_shape(x: _Sizes, weight: _Sizes, window: Window) -> DenseShape | None:
    if len(x) != 4 or len(weight) != 4 or weight[0] < 1:
        return None
    if weight[1:] != (x[1], *window.kernel) or not window.fits(x):
        return None
    return DenseShape(*x, weight[0], *window.output(x[2:]), *window.numbers())


@_for_each_shape
def _linear_shape(x: _Sizes, weight: _Sizes) -> DenseShape | None:
    if len(x) != 2 or len(weight) != 2 or x[1] != weight[0] or 0 in (*x, *weight):
        return None
    inputs, outputs = weight
    return DenseShape(1, inputs, 1, outputs, x[0], 1, outputs, *POINTWISE.numbers())


@_for_each_shape
def _norm_shape(
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


def _once(y: Tensor) -> Tensor:
    if not y.stop_gradient:
        y.register_hook(_Once())
    return y


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: DepthwiseShape, library: Any) -> Tensor:
        wanted = _wanted(x, weight)
        x, weight = _dense_memory(x), _dense_memory(weight)
        y = _new([shape.n, shape.c, shape.out_h, shape.out_w])
        library.depthwise_forward(*_addresses(x, weight, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _conv_gradients(ctx, dy, ctx.rest[1].depthwise_backward)


class _Dense(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: DenseShape, library: Any) -> Tensor:
        wanted = _wanted(x, weight)
        x, weight = _dense_memory(x), _dense_memory(weight)
        y = _new([shape.n, shape.outputs, shape.out_h, shape.out_w])
        library.dense_forward(*_addresses(x, weight, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _conv_gradients(ctx, dy, ctx.rest[1].dense_backward)


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: DenseShape, library: Any) -> Tensor:
        wanted = _wanted(x, weight)
        x, weight = _dense_memory(x), _dense_memory(weight)
        y = _new([shape.outputs, shape.w])
        library.dense_forward(*_addresses(weight, x, y), shape)
        ctx.save_for_backward(x, weight)
        ctx.rest = shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, library, wanted = ctx.rest
        x, weight = ctx.saved_tensor()
        dy, dx = _gradient(dy, [shape.outputs, shape.w]), _new(x.shape)
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
        bias: Tensor | None,
        running: tuple[Tensor, Tensor],
        shape: NormShape,
        library: Any,
    ) -> Tensor:
        inputs = (x, scale, shift) if bias is None else (x, scale, shift, bias)
        wanted = _wanted(*inputs)
        x = _dense_memory(x)
        y, mean, inverse = _new(x.shape), _new([shape.c]), _new([shape.c])
        library.norm_forward(*_addresses(x, scale, shift, *running, y, mean, inverse), shape)
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
        dy = _gradient(dy, x.shape)
        dx = _new(x.shape) if wanted[0] else None
        dscale, dshift = _new(scale.shape), _new(shift.shape)
        addresses = _addresses(*saved, dy, dx, dscale, dshift)
        library.norm_backward(*addresses, shape)
        dbias = [paddle.zeros([shape.c])] * (len(wanted) - 3)
        return _chosen(wanted, dx, dscale, dshift, *dbias)


class _ConvNorm(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor],
        shapes: tuple[DepthwiseShape | DenseShape, NormShape],
        library: Any,
    ) -> Tensor:
        inputs = (x, weight, scale, shift) if bias is None else (x, weight, scale, shift, bias)
        wanted = _wanted(*inputs)
        x, weight = _dense_memory(x), _dense_memory(weight)
        shape, norm = shapes
        sizes = [shape.n, norm.c, shape.out_h, shape.out_w]
        y, z, mean, inverse = _new(sizes), _new(sizes), _new([norm.c]), _new([norm.c])
        depthwise = isinstance(shape, DepthwiseShape)
        function = library.depthwise_norm_forward if depthwise else library.dense_norm_forward
        function(*_addresses(x, weight, scale, shift, *running, y, z, mean, inverse), *shapes)
        if bias is not None:
            running[0].add_((1 - norm.momentum) * bias)
        ctx.save_for_backward(x, weight, scale, shift, y, mean, inverse)
        ctx.rest = shapes, library, wanted
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        shapes, library, wanted = ctx.rest
        saved = ctx.saved_tensor()
        x, weight, scale, shift, y = saved[:5]
        dz = _gradient(dz, y.shape)
        dx = _new(x.shape) if wanted[0] else None
        gradients = dx, _new(weight.shape), _new(scale.shape), _new(shift.shape)
        depthwise = isinstance(shapes[0], DepthwiseShape)
        function = library.depthwise_norm_backward if depthwise else library.dense_norm_backward
        function(*_addresses(*saved, dz, *gradients), *shapes)
        dbias = [paddle.zeros([shapes[1].c])] * (len(wanted) - 4)
        return _chosen(wanted, *gradients, *dbias)


def _conv_gradients(ctx: Any, dy: Tensor, function: Any) -> tuple[Tensor | None, ...]:
    shape, _, wanted = ctx.rest
    x, weight = ctx.saved_tensor()
    dy = _gradient(dy, [shape.n, weight.shape[0], shape.out_h, shape.out_w])
    dx, dweight = _new(x.shape) if wanted[0] else None, _new(weight.shape)
    function(*_addresses(x, weight, dy, dx, dweight), shape)
    return _chosen(wanted, dx, dweight)


def _gradient(dy: Tensor, shape: Sequence[int]) -> Tensor:
    """`dy` in memory without gaps; raises ValueError if a hook has made another tensor of it."""
    if list(dy.shape) != list(shape) or not are_plain(dy):
        raise ValueError(
            f"a gradient of shape {list(dy.shape)}, {dy.dtype}, {dy.place} came for an output of "
            f"shape {list(shape)}, float32, on the CPU: a hook must not change them"
        )
    return _dense_memory(dy)


def _wanted(*inputs: Tensor) -> tuple[bool, ...]:
    """For which of the inputs a gradient is wanted; frozen parameters want none."""
    return tuple(not tensor.stop_gradient for tensor in inputs)


def _chosen(wanted: Sequence[bool], *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Paddle insists on None where no gradient is wanted."""
    return tuple(gradient if want else None for want, gradient in zip(wanted, gradients))


def _new(shape: Sequence[int]) -> Tensor:
    """A tensor for results; `paddle.empty` itself would take a third of a small kernel's time."""
    return paddle._C_ops.empty(shape, _FLOAT32, _CPU)


def _dense_memory(tensor: Tensor) -> Tensor:
    """`tensor` in memory without gaps."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    """Where the values lie; the callers hold the tensors until the C function returns."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
