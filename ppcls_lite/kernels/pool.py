"""Pooling: the largest value of each window, or the mean of those inside the plane.

The input may be `Deferred`: it is formed where it is read, forward and backward, and never stored.
Paddle's operators go through the pixels one at a time; in networks that begin with a pooling they
take longer than the convolution before it. Read next: source/pool.cpp; layers.py.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

from paddle import Tensor, nn
from paddle.autograd import PyLayer

from ppcls_lite.kernels.deferred import (
    Deferred,
    Statistics,
    handed_on,
    input_norm,
    new_learnt,
    raw_of,
    used,
)
from ppcls_lite.kernels.library import PoolShape
from ppcls_lite.kernels.tensors import (
    addresses,
    are_plain,
    checked_gradient,
    chosen,
    new_tensor,
    once,
    wanted_by,
    without_gaps,
)

SAME, VALID = "SAME", "VALID"


@dataclass(frozen=True)
class Pooling:
    """Windows, each (height, width); `padding` may be `SAME` or `VALID`. ceil: as `ceil_mode`."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    ceil: bool
    average: bool

    def side(self, size: int, axis: int) -> tuple[int, int] | None:
        """Of the output, and the padding before the first pixel; None if a window has no pixel."""
        kernel, stride = self.kernel[axis], self.stride[axis]
        if self.padding == SAME:
            out = -(-size // stride)
            before = max(0, (out - 1) * stride + kernel - size) // 2
        else:
            before = 0 if self.padding == VALID else self.padding[axis]
            spare = size + 2 * before - kernel
            out = (spare + (stride - 1 if self.ceil else 0)) // stride + 1
            if spare < 0:
                return None
        has_pixels = 0 <= before < kernel and (out - 1) * stride - before < size
        return (out, before) if has_pixels else None


def pooling_of(layer: nn.MaxPool2D | nn.AvgPool2D, average: bool) -> Pooling | None:
    """What a layer of Paddle's does; None if the kernels do not know such a one."""
    kernel = _pair(layer.ksize)
    stride = kernel if layer.stride is None else _pair(layer.stride)
    by_name = layer.padding in (SAME, VALID) and not layer.ceil_mode
    padding = layer.padding if by_name else _pair(layer.padding)
    if None in (kernel, stride, padding) or layer.data_format != "NCHW":
        return None
    return Pooling(kernel, stride, padding, layer.ceil_mode, average)


def _pair(numbers: Any) -> tuple[int, int] | None:
    """(height, width) of one number or two."""
    pair = (numbers, numbers) if isinstance(numbers, int) else numbers
    known = isinstance(pair, (list, tuple)) and len(pair) == 2
    return tuple(pair) if known and all(isinstance(n, int) for n in pair) else None


@functools.lru_cache(maxsize=4096)
def _shape_of(x: tuple[int, ...], pooling: Pooling) -> PoolShape | None:
    if len(x) != 4 or min(*x, *pooling.kernel, *pooling.stride) < 1:
        return None
    down, right = (pooling.side(x[2 + axis], axis) for axis in range(2))
    if down is None or right is None:
        return None
    (out_h, pad_h), (out_w, pad_w) = down, right
    numbers = *pooling.kernel, *pooling.stride, pad_h, pad_w, int(pooling.average)
    return PoolShape(*x, out_h, out_w, *numbers)


def pooled(x: Tensor | Deferred, pooling: Pooling, library: ctypes.CDLL) -> Tensor | None:
    """x (N, C, H, W) -> (N, C, H', W'); None if the kernels do not know such a one."""
    raw = raw_of(x)
    shape = _shape_of(tuple(raw.shape), pooling) if are_plain(raw) else None
    if shape is None:
        return None
    given, learnt = used(x)
    return once(_Pool.apply(without_gaps(raw), *learnt, given, shape, library))


class _Pool(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        given: Statistics | None,
        shape: PoolShape,
        library: Any,
    ) -> Tensor:
        y = new_tensor([shape.n, shape.c, shape.out_h, shape.out_w])
        vectors, norm = input_norm(given)
        library.pool_forward(*addresses(raw, *vectors, y), shape, norm)
        wanted = wanted_by(raw, *((scale, shift) if given else ()))
        ctx.rest = given, shape, library, wanted
        ctx.save_for_backward(raw)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        given, shape, library, wanted = ctx.rest
        (raw,) = ctx.saved_tensor()
        dy = checked_gradient(dy, [shape.n, shape.c, shape.out_h, shape.out_w])
        dx, (vectors, norm) = new_tensor(raw.shape), input_norm(given)
        learnt = new_learnt(given)
        library.pool_backward(*addresses(raw, *vectors, dy, dx, *learnt), shape, norm)
        return chosen(wanted, *handed_on(given, dx, learnt))
