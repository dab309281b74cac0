"""Enlarging feature maps, in a form that every engine can run.

In training and evaluation this is Paddle's own interpolation. In the program that an export traces
it is made of other operations, equal to rounding: Paddle Inference 3.3 with oneDNN refuses every
interpolation. The ONNX writer knows these forms and writes Resize instead
(ppcls_lite/inference/onnx/enlarging.py).
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.ops.interpolation import linear_kernel, linear_neighbours


class Bilinear(nn.Layer):
    """`bilinear` as a layer, which the CPU kernels can replace."""

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return bilinear(x, like, self.align_corners)


@paddle.jit.not_to_static  # `shape` stays a list of numbers, -1 where a program is free
def bilinear(x: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """`x` (N, C, h, w) with the height and width of `like` (N, any, H, W): (N, C, H, W).

    Half-pixel centres without `align_corners`, as `interpolate` with align_mode 0.
    """
    if paddle.in_dynamic_mode():
        options = {"mode": "bilinear", "align_corners": align_corners}
        return F.interpolate(x, like.shape[2:], **options)
    if tuple(x.shape[2:]) == (1, 1):
        if -1 not in like.shape[2:]:
            return x.expand([-1, -1, *like.shape[2:]])
        return x + paddle.zeros_like(like[:, :1])  # broadcast over sizes that the run knows
    factors = [_factor(x, like, axis) for axis in (2, 3)]
    if all(factors) and not align_corners:
        return _transposed(x, factors)
    for axis in (2, 3):
        x = _mixed(x, like, axis, align_corners)
    return x  # (N, C, H, W)


@paddle.jit.not_to_static
def nearest_twice(x: Tensor) -> Tensor:
    """`x` (N, C, H, W) with each pixel four times, (N, C, 2H, 2W)."""
    if paddle.in_dynamic_mode():
        return F.interpolate(x, scale_factor=2, mode="nearest")
    x = x.unsqueeze([3, 5]).expand([-1, -1, -1, 2, -1, 2])  # (N, C, H, 2, W, 2)
    return x.flatten(4, 5).flatten(2, 3)


def _factor(x: Tensor, like: Tensor, axis: int) -> int | None:
    """How many times an axis grows, if that is a whole number and known in the program."""
    small, large = x.shape[axis], like.shape[axis]
    known = small > 0 and large > 0 and large % small == 0
    return large // small if known else None


def _transposed(x: Tensor, factors: list[int]) -> Tensor:
    """By whole numbers: a transposed convolution of each channel along each axis.

    Faster than one along both (22 against 36 ms for 256 x 16 x 32 by 8, one thread of oneDNN). The
    borders repeat the outermost pixels, as interpolation does.
    """
    channels = x.shape[1]
    x = F.pad(x, [1, 1, 1, 1], mode="replicate")
    for axis, factor in enumerate(factors):
        kernel = linear_kernel(factor)
        shape, stride, padding = [1, 1], [1, 1], [0, 0]
        # Cut off what belongs to the border: it is as long as the kernel, less the stride's half.
        shape[axis], stride[axis], padding[axis] = len(kernel), factor, (3 * factor) // 2
        weight = paddle.to_tensor(kernel.reshape(1, 1, *shape)).expand([channels, 1, *shape])
        x = F.conv2d_transpose(x, weight, stride=stride, padding=padding, groups=channels)
    return x  # (N, C, H, W)


def _mixed(x: Tensor, like: Tensor, axis: int, align_corners: bool) -> Tensor:
    """Along one axis to any length: each pixel is a mixture of two neighbours."""
    small, large = x.shape[axis], like.shape[axis]
    if small > 0 and large > 0:
        low, high, share = linear_neighbours(small, large, align_corners)
        low, high, share = (paddle.to_tensor(array) for array in (low, high, share))
    else:
        low, high, share = _found_neighbours(x, like, axis, align_corners)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    first, second = (paddle.gather(x, index, axis=axis) for index in (low, high))
    return first + (second - first) * share.reshape(shape)


def _found_neighbours(
    x: Tensor, like: Tensor, axis: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_neighbours` where the lengths are known only when the program runs.

    The last index is an integer throughout: oneDNN divides a shared `small - 1` in place.
    """
    length, last = paddle.shape(like)[axis], paddle.shape(x)[axis] - 1
    places = paddle.arange(length).astype("float32")
    if align_corners:
        places = places * (last.astype("float32") / (length - 1).clip(min=1).astype("float32"))
    else:
        ratio = paddle.shape(x)[axis].astype("float32") / length.astype("float32")
        places = ((places + 0.5) * ratio - 0.5).clip(min=0.0)
    whole = places.floor()  # the last one at most: places end before the length of x
    low = whole.astype("int64")
    return low, paddle.minimum(low + 1, last), places - whole
