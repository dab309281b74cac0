"""Parts that several networks share: Conv-BN-activation, squeeze-and-excitation, rounding.

The attribute names (`conv`, `bn`, `conv1`, `conv2`) are part of the official state-dict keys, so
they are fixed. Read next: backbone.py (the contract of a network), pplcnet.py (the smallest user).
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import KaimingNormal
from paddle.regularizer import L2Decay

_ACTIVATIONS: dict[str, type[nn.Layer]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "swish": nn.Swish,
}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a scaled channel count to a multiple of `divisor`, never below 90 % of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def activation(name: str | None) -> nn.Layer:
    """The activation layer of that name; `None` is the identity."""
    return nn.Identity() if name is None else _ACTIVATIONS[name]()


def batch_norm(channels: int, lr_mult: float = 1.0, decay: bool = True) -> nn.BatchNorm2D:
    """Batch normalisation; `decay=False` keeps its scale and shift out of weight decay."""
    attr = {"learning_rate": lr_mult, "regularizer": None if decay else L2Decay(0.0)}
    return nn.BatchNorm2D(channels, weight_attr=ParamAttr(**attr), bias_attr=ParamAttr(**attr))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int | list[int] = 1,
    groups: int = 1,
    lr_mult: float = 1.0,
    kaiming: bool = False,
) -> nn.Conv2D:
    """A convolution without bias, padded so that stride 1 keeps the size.

    `kaiming` draws from N(0, 2 / fan_in) with the fan-in of one group; otherwise paddle's own
    default, N(0, 2 / (k * k * in_channels)), as the official networks that name no initialiser.
    """
    size = (in_channels, out_channels, kernel_size)
    attr = ParamAttr(initializer=KaimingNormal() if kaiming else None, learning_rate=lr_mult)
    steps = {"stride": stride, "padding": (kernel_size - 1) // 2, "groups": groups}
    return nn.Conv2D(*size, **steps, weight_attr=attr, bias_attr=False)


class ConvBN(nn.Layer):
    """Convolution, batch normalisation, activation.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | list[int] = 1,
        groups: int = 1,
        act: str | None = "relu",
        lr_mult: float = 1.0,
        kaiming: bool = False,
        bn_decay: bool = True,
    ) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, kernel_size, stride, groups, lr_mult, kaiming)
        self.bn = batch_norm(out_channels, lr_mult, bn_decay)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class NamedConvBN(nn.Layer):
    """`ConvBN` under the key names `_conv` and `_batch_norm` of the older official networks."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "relu",
        kaiming: bool = False,
    ) -> None:
        super().__init__()
        self._conv = conv2d(in_channels, out_channels, kernel_size, stride, groups, 1.0, kaiming)
        self._batch_norm = batch_norm(out_channels)
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self._act(self._batch_norm(self._conv(x)))


class SqueezeExcitation(nn.Layer):
    """Channel attention (https://arxiv.org/abs/1709.01507) with 1x1 convolutions, ratio 1/4.

    (N, C, H, W) -> the same shape, each channel scaled by `gate` of a pooled two-layer network.
    """

    def __init__(
        self, channels: int, gate: Callable[[Tensor], Tensor] = F.hardsigmoid, lr_mult: float = 1.0
    ) -> None:
        super().__init__()
        attr = ParamAttr(learning_rate=lr_mult)
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.conv1 = nn.Conv2D(channels, channels // 4, 1, weight_attr=attr, bias_attr=attr)
        self.conv2 = nn.Conv2D(channels // 4, channels, 1, weight_attr=attr, bias_attr=attr)
        self._gate = gate

    def forward(self, x: Tensor) -> Tensor:
        scale = self.avg_pool(x)  # (N, C, 1, 1)
        scale = self.conv2(F.relu(self.conv1(scale)))
        return paddle.multiply(x, self._gate(scale))


def nearest_twice(x: Tensor) -> Tensor:
    """Every pixel four times, (N, C, H, W) -> (N, C, 2 H, 2 W).

    Nearest-neighbour interpolation, by copies: Paddle Inference with oneDNN fails on its own one.
    """
    x = x.unsqueeze([3, 5])  # (N, C, H, 1, W, 1)
    return x.expand([-1, -1, -1, 2, -1, 2]).flatten(4, 5).flatten(2, 3)


def stage_strides(strides: list[int | list[int]]) -> tuple[int | tuple[int, int], ...]:
    """Strides of the last four stages against the input, from those of the stem and all stages."""
    height = width = 1
    total: list[int | tuple[int, int]] = []
    for stride in strides:
        h, w = (stride, stride) if isinstance(stride, int) else stride
        height, width = height * h, width * w
        total.append(height if height == width else (height, width))
    return tuple(total[1:])
