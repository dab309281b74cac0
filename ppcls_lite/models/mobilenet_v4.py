"""MobileNetV4, the convolutional ones: universal inverted bottlenecks, searched for many machines.

Paper: https://arxiv.org/abs/2404.10518 (section 3 is the block, appendix D the networks).
Read next: mobilenet_v3.py (what it follows).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    BelowOne,
    Channels,
    ClassCount,
    Ignored,
    NonNegativeInt,
)
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import ConvBN, DropPath, InOrder, Strides, present


class _Conv(NamedTuple):
    """A plain convolution."""

    channels: int
    kernel_size: int
    stride: int = 1


class _Fused(NamedTuple):
    """An edge residual: a dense convolution that widens, a pointwise one that narrows."""

    channels: int
    hidden: int
    kernel_size: int
    stride: int


class _Universal(NamedTuple):
    """A universal inverted bottleneck; a depthwise kernel of 0 is none."""

    channels: int
    hidden: int
    start: int
    middle: int
    stride: int = 1


class _Network(NamedTuple):
    """The stem's width, the blocks, and after which of them the stages end."""

    stem: int
    blocks: tuple[_Conv | _Fused | _Universal, ...]
    ends: tuple[int, ...]


def _uib(channels: int, *rows: tuple[int, ...]) -> list[_Universal]:
    """Blocks of one width; a row: hidden width, first kernel, second kernel, and a stride."""
    return [_Universal(channels, *row) for row in rows]


_NETWORKS = {
    "conv_small": _Network(
        32,
        (
            *(_Conv(32, 3, 2), _Conv(32, 1)),
            *(_Conv(96, 3, 2), _Conv(64, 1)),
            *_uib(96, (192, 5, 5, 2), *[(192, 0, 3)] * 4, (384, 3, 0)),
            *_uib(128, (576, 3, 3, 2), (512, 5, 5), (512, 0, 5), (384, 0, 5), *[(512, 0, 3)] * 2),
            _Conv(960, 1),
        ),
        (1, 3, 9, 16),
    ),
    "conv_medium": _Network(
        32,
        (
            _Fused(48, 128, 3, 2),
            *_uib(80, (192, 3, 5, 2), (160, 3, 3)),
            *_uib(160, (480, 3, 5, 2), (640, 3, 3), (640, 3, 3), (640, 3, 5), (640, 3, 3)),
            *_uib(160, (640, 3, 0), (320, 0, 0), (640, 3, 0)),
            *_uib(256, (960, 5, 5, 2), (1024, 5, 5), (1024, 3, 5), (1024, 3, 5), (1024, 0, 0)),
            *_uib(256, (1024, 3, 0), (512, 3, 5), (1024, 5, 5), *[(1024, 0, 0)] * 2, (512, 5, 0)),
            _Conv(960, 1),
        ),
        (0, 2, 10, 22),
    ),
    "conv_large": _Network(
        24,
        (
            _Fused(48, 96, 3, 2),
            *_uib(96, (192, 3, 5, 2), (384, 3, 3)),
            *_uib(192, (384, 3, 5, 2), *[(768, 3, 3)] * 3, (768, 3, 5), *[(768, 5, 3)] * 5),
            *_uib(192, (768, 3, 0)),
            *_uib(512, (768, 5, 5, 2), *[(2048, 5, 5)] * 3, (2048, 5, 0), (2048, 5, 3)),
            *_uib(512, *[(2048, 5, 0)] * 2, (2048, 5, 3), (2048, 5, 5), *[(2048, 5, 0)] * 3),
            _Conv(960, 1),
        ),
        (0, 2, 13, 27),
    ),
}


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, **more: object
) -> ConvBN:
    return ConvBN(in_channels, out_channels, size, stride, bn_decay=False, **more)


class EdgeResidual(InOrder):
    """A dense convolution that widens, a linear pointwise one that narrows."""

    def __init__(self, in_channels: int, row: _Fused, drop_path: float, steps: Strides) -> None:
        super().__init__()
        stride, dilation = steps.next(row.stride)
        size = (in_channels, row.hidden, row.kernel_size, stride)
        self.conv_exp = _conv(*size, dilation=dilation)
        self.conv_pwl = _conv(row.hidden, row.channels, 1, act=None)
        self.drop_path = DropPath(drop_path)
        self.shortcut = row.stride == 1 and in_channels == row.channels

    def steps(self) -> list[nn.Layer]:
        layers = [self.conv_exp, self.conv_pwl]
        return [*layers, self.drop_path] if self.shortcut and self.drop_path.rate else layers


class UniversalBottleneck(InOrder):
    """Depthwise (linear), expansion, depthwise, linear projection; section 3 of the paper.

    (N, in_channels, H, W) -> (N, channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, row: _Universal, drop_path: float, steps: Strides) -> None:
        super().__init__()
        hidden, self.dw_start, self.dw_mid = row.hidden, None, None
        if row.start:
            stride, dilation = steps.next(1 if row.middle else row.stride)
            more = {"groups": in_channels, "act": None, "dilation": dilation}
            self.dw_start = _conv(in_channels, in_channels, row.start, stride, **more)
        self.pw_exp = _conv(in_channels, hidden, 1)
        if row.middle:
            stride, dilation = steps.next(row.stride)
            self.dw_mid = _conv(
                hidden, hidden, row.middle, stride, groups=hidden, dilation=dilation
            )
        self.pw_proj = _conv(hidden, row.channels, 1, act=None)
        self.drop_path = DropPath(drop_path)
        self.shortcut = row.stride == 1 and in_channels == row.channels

    def steps(self) -> list[nn.Layer]:
        layers = present(self.dw_start, self.pw_exp, self.dw_mid, self.pw_proj)
        return [*layers, self.drop_path] if self.shortcut and self.drop_path.rate else layers


@register("model")
class MobileNetV4(Backbone):
    """MobileNetV4, convolutions only.

    size: which of the networks. class_num: classes; 0 builds the trunk alone. drop_path_rate:
    how often a block is left out in training, the last one; it grows from 0 over the blocks.
    drop_rate: has no effect in PaddleClas either. return_patterns, return_stages: see
    `Backbone.tap`. output_stride: see `Strides`.
    """

    head_layers = ("conv_head", "classifier")

    def __init__(
        self,
        size: Literal["conv_small", "conv_medium", "conv_large"] = "conv_small",
        class_num: ClassCount = 1000,
        drop_path_rate: BelowOne = 0.0,
        drop_rate: Ignored = 0.0,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
        output_stride: Literal[8, 16, 32] | None = None,
    ) -> None:
        super().__init__(class_num)
        network = _NETWORKS[size]
        width = network.stem
        self.conv_stem = _conv(in_channels, width, 3, 2)
        steps = Strides(output_stride)
        steps.next(2)
        blocks: list[nn.Layer] = []
        for i, row in enumerate(network.blocks):
            rate = drop_path_rate * i / len(network.blocks)
            if isinstance(row, _Conv):
                stride, dilation = steps.next(row.stride)
                blocks.append(_conv(width, *row[:2], stride, dilation=dilation))
            elif isinstance(row, _Fused):
                blocks.append(EdgeResidual(width, row, rate, steps))
            else:
                blocks.append(UniversalBottleneck(width, row, rate, steps))
            width = row.channels
        self.blocks = nn.Sequential(*blocks)
        self._ends = network.ends
        self.strides = steps.cap(self.strides)
        self.channels = tuple(network.blocks[i].channels for i in network.ends)
        self.stage_names = tuple(f"blocks[{i}]" for i in network.ends)
        if class_num:
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            self.conv_head = _conv(width, 1280, 1)  # after the pooling
            self.classifier = nn.Linear(1280, class_num)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        ends = [1 + end for end in self._ends]
        return self.outputs_at(ends, [self.conv_stem, *self.blocks], x)

    def forward_head(self, feature: Tensor) -> Tensor:
        x = self.conv_head(self.avg_pool(feature))  # (N, 1280, 1, 1)
        return self.classifier(x.flatten(1))
