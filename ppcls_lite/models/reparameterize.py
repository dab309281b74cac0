"""Batch normalisation and parallel branches folded into one convolution, for inference.

A convolution W followed by a batch normalisation is the convolution t * W with the bias
beta - mean * t, where t = gamma / sqrt(variance + epsilon) for each output channel. Sums of such
branches are sums of their kernels, padded to one size (RepVGG, https://arxiv.org/abs/2101.03697).
Read next: pplcnet_v3.py, pplcnet_v4.py.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

Folded = tuple[Tensor, Tensor]  # kernel (C, C_in / groups, k, k) and bias (C,)


def fold(kernel: Tensor, norm: nn.BatchNorm2D, bias: Tensor | None = None) -> Folded:
    """Kernel and bias of the convolution that does the work of both."""
    factor = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)  # (C,)
    shift = norm._mean if bias is None else norm._mean - bias
    return kernel * factor.reshape([-1, *[1] * (kernel.ndim - 1)]), norm.bias - shift * factor


def padded(kernel: Tensor, size: int) -> Tensor:
    """An odd kernel in the middle of one of `size`."""
    return F.pad(kernel, [(size - kernel.shape[-1]) // 2] * 4)


def identity_kernel(channels: int, groups: int) -> Tensor:
    """The 1x1 kernel (channels, channels / groups, 1, 1) that changes nothing."""
    width = channels // groups
    place = paddle.arange(channels) % width
    return F.one_hot(place, width).reshape([channels, width, 1, 1])


def like(conv: nn.Conv2D, kernel: Tensor, bias: Tensor) -> nn.Conv2D:
    """A convolution with the geometry of `conv`, this kernel and this bias."""
    made = nn.Conv2D(
        *(conv._in_channels, conv._out_channels, conv._kernel_size),
        stride=conv._stride,
        padding=conv._padding,
        dilation=conv._dilation,
        groups=conv._groups,
    )
    made.weight.set_value(kernel)
    made.bias.set_value(bias)
    return made


def merged(pair: nn.Layer) -> nn.Conv2D:
    """The convolution and batch normalisation of a `ConvBN` as one convolution with a bias."""
    return like(pair.conv, *fold(pair.conv.weight, pair.bn, pair.conv.bias))
