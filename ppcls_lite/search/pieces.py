"""The parts of PP-LCNets, each as a layer of its own. Read before: pplcnet_space.py."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import nn

from ppcls_lite.models.layers import ConvBN, SqueezeExcitation, activation

Stride = int | Sequence[int]


def stem(in_channels: int, out_channels: int, stride: Stride, act: str) -> nn.Layer:
    """(N, in, H, W) -> (N, out, H / stride, W / stride)."""
    return ConvBN(in_channels, out_channels, 3, stride, 1, act)


def depthwise(channels: int, kernel: int, stride: Stride, attends: int, act: str) -> nn.Layer:
    """(N, C, H, W) -> (N, C, H / stride, W / stride)."""
    conv = ConvBN(channels, channels, kernel, stride, channels, act)
    return nn.Sequential(conv, SqueezeExcitation(channels)) if attends else conv


def pointwise(in_channels: int, out_channels: int, act: str) -> nn.Layer:
    """(N, in, H, W) -> (N, out, H, W)."""
    return ConvBN(in_channels, out_channels, 1, 1, 1, act)


def head(in_channels: int, expand: int, classes: int, act: str) -> nn.Layer:
    """(N, in, H, W) -> (N, classes), with the head of `PPLCNet` itself."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2D(1),
        nn.Conv2D(in_channels, expand, 1, bias_attr=False),
        activation(act),
        nn.Flatten(),
        nn.Linear(expand, classes),
    )
