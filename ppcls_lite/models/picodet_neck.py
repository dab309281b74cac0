"""PicoDet's necks: features of a trunk at three strides, made to exchange what they see.

A neck is described in the recipe, `neck: {name: LCPAN, out_channels: 96}`, and built for the
channels of its trunk. Down from the coarse level to the fine one, up again, and one level more for
large objects: PicoDet (arXiv 2111.00902), section 2.1; LCPAN is its later form with the blocks of
PP-LCNet. Names of layers are PaddleDetection's. Read next: picodet_head.py, picodet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import paddle
from paddle import Tensor, nn
from paddle.nn.initializer import Initializer, KaimingUniform

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, Repeats
from ppcls_lite.models.layers import ConvBN, ConvNorms, activation, batch_norm, conv2d
from ppcls_lite.models.pplcnet import DepthwiseSeparable
from ppcls_lite.models.upsample import nearest_twice

Fuse = Callable[[int, int], nn.Layer]  # channels in and out -> what unites two levels
Mix = Callable[..., nn.Layer]  # the same -> a convolution that looks around


class DepthwisePointwise(ConvNorms):
    """Depthwise convolution, pointwise convolution, each normalised and activated.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride). With one channel out the
    first convolution is a whole one, and nothing is activated at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        act: str | None = "hardswish",
        last_act: bool = True,
    ) -> None:
        super().__init__()
        size = (in_channels, out_channels, kernel_size, stride)
        self.dwconv = conv2d(*size, groups=out_channels)
        self.bn1 = batch_norm(out_channels)
        self.pwconv = conv2d(out_channels, out_channels, 1)
        self.bn2 = batch_norm(out_channels)
        self.act = activation(act)
        self.last_act = self.act if last_act else activation(None)

    def joined(self) -> Sequence[tuple[nn.Conv2D, nn.BatchNorm2D, nn.Layer]]:
        return [(self.dwconv, self.bn1, self.act), (self.pwconv, self.bn2, self.last_act)]


class CSPLayer(nn.Layer):
    """Half of the channels go through bottlenecks without a shortcut (arXiv 1911.11929)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        act: str,
        mix: Mix,
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.main_conv = ConvBN(in_channels, half, 1, act=act)
        self.short_conv = ConvBN(in_channels, half, 1, act=act)
        self.final_conv = ConvBN(2 * half, out_channels, 1, act=act)
        self.blocks = nn.Sequential(*(_Bottleneck(half, act, mix) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        both = paddle.concat([self.blocks(self.main_conv(x)), self.short_conv(x)], axis=1)
        return self.final_conv(both)


class _Bottleneck(nn.Layer):
    def __init__(self, channels: int, act: str, mix: Mix) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 1, act=act)
        self.conv2 = mix(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class PathAggregation(nn.Layer):
    """Features at the strides 8, 16, 32 -> as many channels each, and a level at stride 64.

    channels: of the features. fuse: makes what unites two levels of `width` channels; mix: a
    convolution of the neck's kernel. extra: whether there is the fourth level.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        act: str,
        fuse: Fuse,
        mix: Mix,
        extra: bool,
    ) -> None:
        super().__init__()
        self.channels = [width] * (4 if extra else 3)
        self.conv_t = nn.Layer()
        self.conv_t.convs = nn.LayerList(ConvBN(c, width, 1, act=act) for c in channels)
        self.top_down_blocks = nn.LayerList(fuse(2 * width, width) for _ in channels[1:])
        self.downsamples = nn.LayerList(mix(width, width, stride=2) for _ in channels[1:])
        self.bottom_up_blocks = nn.LayerList(fuse(2 * width, width) for _ in channels[1:])
        if extra:
            self.first_top_conv = mix(width, width, stride=2)
            self.second_top_conv = mix(width, width, stride=2)
        self.extra = extra

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(N, channels[i], H / 8, W / 8), ...] -> [(N, width, H / 8, W / 8), ...]."""
        levels = [conv(feature) for conv, feature in zip(self.conv_t.convs, features)]
        coarsest = levels[-1]
        down = [coarsest]  # from the coarsest to the finest
        for block, level in zip(self.top_down_blocks, reversed(levels[:-1])):
            down.append(block(paddle.concat([nearest_twice(down[-1]), level], axis=1)))
        up = [down.pop()]
        for shrink, block in zip(self.downsamples, self.bottom_up_blocks):
            up.append(block(paddle.concat([shrink(up[-1]), down.pop()], axis=1)))
        if self.extra:
            up.append(self.first_top_conv(coarsest) + self.second_top_conv(up[-1]))
        return up


@dataclass
class Neck:
    """What the necks share.

    out_channels: of every level. num_features: levels, 4 with one at stride 64. kernel_size: of the
    convolutions that look around. use_depthwise: whether these are depthwise and pointwise ones
    instead of whole ones.
    """

    out_channels: Channels = 96
    num_features: Literal[3, 4] = 4
    kernel_size: Literal[3, 5, 7] = 5
    use_depthwise: bool = True
    act: Literal["hardswish", "relu", "relu6"] = "hardswish"

    def build(self, channels: Sequence[int]) -> PathAggregation:
        """The layer for a trunk's last three stages of `channels`."""
        if self.use_depthwise:
            mix = partial(DepthwisePointwise, kernel_size=self.kernel_size, act=self.act)
        else:
            mix = partial(ConvBN, kernel_size=self.kernel_size, act=self.act)
        extra = self.num_features > len(channels)
        neck = PathAggregation(channels, self.out_channels, self.act, self.fuse(mix), mix, extra)
        initialize(neck, KaimingUniform(), apart=DepthwiseSeparable)
        return neck

    def fuse(self, mix: Mix) -> Fuse:
        raise NotImplementedError


@register("neck")
@dataclass
class CSPPAN(Neck):
    """The neck of the first PicoDet (2021), the one of PP-LCNet's table 4.

    Args: those of LCPAN, and
        num_csp_blocks: bottlenecks where two levels are united.
    """

    num_csp_blocks: Repeats = 1

    def fuse(self, mix: Mix) -> Fuse:
        return partial(CSPLayer, count=self.num_csp_blocks, act=self.act, mix=mix)


@register("neck")
@dataclass
class LCPAN(Neck):
    """The neck of the second PicoDet (2022): levels are united by PP-LCNet's blocks.

    Args:
        out_channels: of every level.
        num_features: levels, 4 with one at stride 64.
        kernel_size: of the convolutions that look around.
        use_depthwise: whether these are depthwise and pointwise ones instead of whole ones.
        act: the activation, but of PP-LCNet's blocks, which keep theirs.
    """

    def fuse(self, mix: Mix) -> Fuse:
        def blocks(in_channels: int, out_channels: int) -> nn.Layer:
            common = {"stride": 1, "use_se": False, "act": "hardswish", "lr_mult": 1.0}
            size = self.kernel_size
            return nn.Sequential(
                DepthwiseSeparable(in_channels, in_channels, size, **common),
                DepthwiseSeparable(in_channels, out_channels, size, **common),
            )

        return blocks


def initialize(
    layer: nn.Layer, draw: Initializer, apart: type[nn.Layer] | tuple[type[nn.Layer], ...] = ()
) -> None:
    """Draw the weights of all convolutions in `layer` anew, but of those in layers of `apart`."""
    if isinstance(layer, apart):
        return
    if isinstance(layer, nn.Conv2D):
        draw(layer.weight)
    for child in layer.children():
        initialize(child, draw, apart)
