"""Kernels of what a segmentation adds: enlarged maps and the cross entropy of their pixels.

As those of ops.py, but None where the kernels do not know the tensors: a layer that has a forward
of its own (layers.py) then runs that.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.library import BilinearShape, PlanesShape
from ppcls_lite.kernels.tensors import (
    addresses,
    are_plain,
    checked_gradient,
    new_tensor,
    once,
    without_gaps,
)
from ppcls_lite.ops.interpolation import linear_neighbours


def enlarged(
    x: Tensor, size: Sequence[int], align_corners: bool, library: ctypes.CDLL
) -> Tensor | None:
    """x (N, C, h, w) -> (N, C, *size) by bilinear interpolation."""
    if x.ndim != 4 or 0 in (*x.shape, *size) or not are_plain(x):
        return None
    n, c, h, w = x.shape
    shape = BilinearShape(n * c, h, w, *size)
    axes = _axis(h, size[0], align_corners), _axis(w, size[1], align_corners)
    return once(_Enlarged.apply(x, axes, shape, library))


def pixel_entropy(logits: Tensor, classes: Tensor, library: ctypes.CDLL) -> Tensor | None:
    """logits (N, C, H, W), classes (N, H, W) int64 -> -log p of each pixel's class (N, H, W).

    A class below 0 or from C on gives NaN.
    """
    sizes = tuple(logits.shape)
    known = logits.ndim == 4 and 0 not in sizes and are_plain(logits)
    if not known or tuple(classes.shape) != (sizes[0], *sizes[2:]):
        return None
    if classes.dtype != paddle.int64 or not classes.place.is_cpu_place():
        return None
    shape = PlanesShape(*sizes[:2], sizes[2] * sizes[3])
    return once(_PixelEntropy.apply(logits, without_gaps(classes), shape, library))


_Axis = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=64)
def _axis(small: int, large: int, align_corners: bool) -> _Axis:
    """The table of an axis, as source/bilinear.cpp reads it."""
    low, _, share = linear_neighbours(small, large, align_corners)
    return np.ascontiguousarray(low, np.int64), np.ascontiguousarray(share, np.float32)


def _tables(axes: Sequence[_Axis]) -> list[int]:
    return [table.ctypes.data for axis in axes for table in axis]


class _Enlarged(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, axes: Sequence[_Axis], shape: BilinearShape, library: Any
    ) -> Tensor:
        ctx.rest = x.shape, axes, shape, library
        x, y = without_gaps(x), new_tensor([*x.shape[:2], shape.out_h, shape.out_w])
        library.bilinear_forward(*addresses(x), *_tables(axes), *addresses(y), shape)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        size, axes, shape, library = ctx.rest
        dy = checked_gradient(dy, [*size[:2], shape.out_h, shape.out_w])
        dx = new_tensor(size)
        library.bilinear_backward(*addresses(dy), *_tables(axes), *addresses(dx), shape)
        return dx


class _PixelEntropy(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, shape: PlanesShape, library: Any
    ) -> Tensor:
        logits = without_gaps(logits)
        losses, log_sum = new_tensor(classes.shape), new_tensor(classes.shape)
        library.entropy_forward(*addresses(logits, classes, losses, log_sum), shape)
        ctx.save_for_backward(logits, classes, log_sum)
        ctx.rest = shape, library
        return losses

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, library = ctx.rest
        logits, classes, log_sum = ctx.saved_tensor()
        dy, dx = checked_gradient(dy, classes.shape), new_tensor(logits.shape)
        library.entropy_backward(*addresses(logits, classes, log_sum, dy, dx), shape)
        return dx, None
