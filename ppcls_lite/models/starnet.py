"""StarNet: blocks that multiply two linear maps of their input instead of adding layers.

Paper: https://arxiv.org/abs/2403.19967 (section 4, table 9 has the networks). Read next:
fasternet.py.
"""

from __future__ import annotations

from typing import Literal

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    BelowOne,
    Channels,
    ClassCount,
    Ignored,
    NonNegativeInt,
    Repeats,
)
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import ConvBN, DropPath, Strides, conv2d, drop_path_rates

_STEM_CHANNELS = 32
_EXPANSION = 4


class Conv(nn.Layer):
    """A convolution with a bias, under the key name `conv`."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        more = {"groups": groups, "dilation": dilation, "bias": True}
        self.conv = conv2d(in_channels, out_channels, size, **more)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Block(nn.Layer):
    """7x7 depthwise, relu6(f1) * f2, projection, 7x7 depthwise, with a shortcut."""

    def __init__(self, channels: int, drop_path: float, dilation: int) -> None:
        super().__init__()
        hidden = channels * _EXPANSION
        depthwise = {"groups": channels, "dilation": dilation}
        self.dwconv = ConvBN(channels, channels, 7, **depthwise, act=None, bias=True)
        self.f1 = Conv(channels, hidden, 1)
        self.f2 = Conv(channels, hidden, 1)
        self.g = ConvBN(hidden, channels, 1, act=None, bias=True)
        self.dwconv2 = Conv(channels, channels, 7, **depthwise)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        y = self.g(F.relu6(self.f1(y)) * self.f2(y))
        return x + self.drop_path(self.dwconv2(y))  # (N, channels, H, W)


@register("model")
class StarNet(Backbone):
    """StarNet.

    base_dim: channels of the first stage, which double from stage to stage. depths: blocks of the
    four stages. class_num: classes; 0 builds the trunk alone. drop_path_rate: how often the last
    block is left out in training; it grows from 0 over the blocks. drop_rate: has no effect in
    PaddleClas either. return_patterns, return_stages: see `Backbone.tap`. output_stride: see
    `Strides`.
    """

    stage_names = ("stages[0]", "stages[1]", "stages[2]", "stages[3]")
    head_layers = ("norm", "head")

    def __init__(
        self,
        base_dim: Channels = 24,
        depths: list[Repeats] = (2, 2, 8, 3),
        class_num: ClassCount = 1000,
        drop_path_rate: BelowOne = 0.0,
        drop_rate: Ignored = 0.0,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
        output_stride: Literal[8, 16, 32] | None = None,
    ) -> None:
        super().__init__(class_num)
        if len(depths) != 4:
            raise UserError(f"StarNet: depths needs 4 numbers, one a stage; got {list(depths)}")
        first = ConvBN(in_channels, _STEM_CHANNELS, 3, 2, act=None, bias=True)
        self.stem = nn.Sequential(first, nn.ReLU6())
        self.channels = tuple(base_dim * 2**i for i in range(4))
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        steps = Strides(output_stride)
        steps.next(2)
        self.strides = steps.cap(self.strides)
        self.stages, width = nn.LayerList(), _STEM_CHANNELS
        for channels, depth in zip(self.channels, depths):
            stride, dilation = steps.next(2)
            more = {"act": None, "bias": True, "dilation": dilation}
            halving = ConvBN(width, channels, 3, stride, **more)
            _, dilation = steps.next(1)
            blocks = [Block(channels, next(rates), dilation) for _ in range(depth)]
            self.stages.append(nn.Sequential(halving, *blocks))
            width = channels
        if class_num:
            self.norm = nn.BatchNorm2D(width)
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            self.head = nn.Linear(width, class_num)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        return self.outputs_at(range(4), self.stages, self.stem(x))  # stem: (N, 32, H / 2, W / 2)

    def forward_head(self, feature: Tensor) -> Tensor:
        return self.head(self.avg_pool(self.norm(feature)).flatten(1))
