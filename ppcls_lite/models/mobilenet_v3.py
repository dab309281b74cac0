"""MobileNetV3, small and large: searched blocks with attention (https://arxiv.org/abs/1905.02244).

PP-LCNet takes its activation and its head from here. Read next: pplcnet.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Channels,
    ClassCount,
    NonNegativeInt,
    PositiveInt,
    Probability,
    WidthScale,
)
from ppcls_lite.models.backbone import ExpandHeadBackbone
from ppcls_lite.models.layers import (
    ConvBN,
    InOrder,
    SqueezeExcitation,
    Strides,
    make_divisible,
    present,
)


class _Row(NamedTuple):
    """One block at scale 1, as in the paper's tables 1 and 2."""

    kernel_size: int
    hidden: int
    channels: int
    use_se: bool
    act: str
    stride: int


_RELU, _HSWISH = "relu", "hardswish"
_ROWS = {
    "large": (
        _Row(3, 16, 16, False, _RELU, 1),
        _Row(3, 64, 24, False, _RELU, 2),
        _Row(3, 72, 24, False, _RELU, 1),
        _Row(5, 72, 40, True, _RELU, 2),
        _Row(5, 120, 40, True, _RELU, 1),
        _Row(5, 120, 40, True, _RELU, 1),
        _Row(3, 240, 80, False, _HSWISH, 2),
        _Row(3, 200, 80, False, _HSWISH, 1),
        _Row(3, 184, 80, False, _HSWISH, 1),
        _Row(3, 184, 80, False, _HSWISH, 1),
        _Row(3, 480, 112, True, _HSWISH, 1),
        _Row(3, 672, 112, True, _HSWISH, 1),
        _Row(5, 672, 160, True, _HSWISH, 2),
        _Row(5, 960, 160, True, _HSWISH, 1),
        _Row(5, 960, 160, True, _HSWISH, 1),
    ),
    "small": (
        _Row(3, 16, 16, True, _RELU, 2),
        _Row(3, 72, 24, False, _RELU, 2),
        _Row(3, 88, 24, False, _RELU, 1),
        _Row(5, 96, 40, True, _HSWISH, 2),
        _Row(5, 240, 40, True, _HSWISH, 1),
        _Row(5, 240, 40, True, _HSWISH, 1),
        _Row(5, 120, 48, True, _HSWISH, 1),
        _Row(5, 144, 48, True, _HSWISH, 1),
        _Row(5, 288, 96, True, _HSWISH, 2),
        _Row(5, 576, 96, True, _HSWISH, 1),
        _Row(5, 576, 96, True, _HSWISH, 1),
    ),
}
_STAGE_ENDS = {"large": (2, 5, 11, 14), "small": (0, 2, 7, 10)}
_SQUEEZE = {"large": 960, "small": 576}


def _steep(x: Tensor) -> Tensor:
    """The hard sigmoid of slope 0.2, not 1/6, that the official weights were trained with."""
    return F.hardsigmoid(x, slope=0.2, offset=0.5)


class _Options(NamedTuple):
    """How blocks of other toolkits differ: see `MobileNetV3`."""

    expand_first: bool
    se_divisor: int | None
    gate_slope: str

    def squeeze(self, channels: int) -> int | None:
        """Width inside the attention over so many channels."""
        return self.se_divisor and make_divisible(channels / 4, self.se_divisor)


class InvertedResidual(InOrder):
    """1x1 expansion, depthwise, attention, linear 1x1 projection, shortcut where shapes agree."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        row: _Row,
        steps: Strides,
        options: _Options,
    ) -> None:
        super().__init__()
        self.expand_conv = None
        if options.expand_first or hidden != in_channels:
            self.expand_conv = ConvBN(in_channels, hidden, 1, act=row.act, bn_decay=False)
        stride, dilation = steps.next(row.stride)
        size = (hidden, hidden, row.kernel_size, stride, hidden, row.act)
        self.bottleneck_conv = ConvBN(*size, bn_decay=False, dilation=dilation)
        self.mid_se = None
        if row.use_se:
            gate = _steep if options.gate_slope == "1/5" else F.hardsigmoid
            self.mid_se = SqueezeExcitation(hidden, gate, squeeze=options.squeeze(hidden))
        self.linear_conv = ConvBN(hidden, out_channels, 1, act=None, bn_decay=False)
        self.shortcut = row.stride == 1 and in_channels == out_channels

    def steps(self) -> list[nn.Layer]:
        return present(self.expand_conv, self.bottleneck_conv, self.mid_se, self.linear_conv)


@register("model")
class MobileNetV3(ExpandHeadBackbone):
    """MobileNetV3.

    size: which of the two searched networks. scale: multiplies all channel counts (rounded to
    multiples of 8). class_num: classes; 0 builds the trunk alone. inplanes: stem channels at
    scale 1. class_squeeze: channels before pooling at scale 1 (default 960 large, 576 small).
    class_expand, dropout_prob: the head. return_patterns, return_stages: see `Backbone.tap`.
    output_stride: see `Strides`. For weights of other toolkits: first_block_expand: whether a block
    that keeps its width has an expansion; se_divisor: round a quarter of the channels to multiples
    of it inside the attention (default: cut); gate_slope: of its hard sigmoid; last_conv_bias,
    dropout_mode: see `ExpandHeadBackbone`. in_channels: channels of an image.
    """

    head_layers = ("last_second_conv", "last_conv", "fc")

    def __init__(
        self,
        size: Literal["small", "large"] = "large",
        scale: WidthScale = 1.0,
        class_num: ClassCount = 1000,
        inplanes: Channels = 16,
        class_squeeze: Channels | None = None,
        class_expand: Channels = 1280,
        dropout_prob: Probability | None = 0.2,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        last_conv_bias: bool = False,
        dropout_mode: Literal["downscale_in_infer", "upscale_in_train"] = "downscale_in_infer",
        first_block_expand: bool = True,
        se_divisor: PositiveInt | None = None,
        gate_slope: Literal["1/5", "1/6"] = "1/5",
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        channels = make_divisible(inplanes * scale)
        steps = Strides(output_stride)
        self.conv = ConvBN(
            in_channels, channels, 3, steps.next(2)[0], act="hardswish", bn_decay=False
        )
        options = _Options(first_block_expand, se_divisor, gate_slope)
        blocks = []
        for row in _ROWS[size]:
            in_channels, channels = channels, make_divisible(row.channels * scale)
            hidden = make_divisible(row.hidden * scale)
            blocks.append(InvertedResidual(in_channels, hidden, channels, row, steps, options))
        self.blocks = nn.Sequential(*blocks)
        self._stage_ends = _STAGE_ENDS[size]
        self.strides = steps.cap(self.strides)
        self.channels = tuple(
            make_divisible(_ROWS[size][i].channels * scale) for i in self._stage_ends
        )
        first = ("blocks[0]",) if size == "large" else ()  # counted as a stage of stride 2
        self.stage_names = (*first, *(f"blocks[{i}]" for i in self._stage_ends))
        if class_num:
            squeeze = make_divisible((class_squeeze or _SQUEEZE[size]) * scale)
            self.last_second_conv = ConvBN(channels, squeeze, 1, act="hardswish", bn_decay=False)
            self._build_head(
                *(squeeze, class_expand, "hardswish", dropout_prob, True),
                *(last_conv_bias, dropout_mode),
            )
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        ends = [1 + end for end in self._stage_ends]
        return self.outputs_at(ends, [self.conv, *self.blocks], x)

    def forward_head(self, feature: Tensor) -> Tensor:
        return super().forward_head(self.last_second_conv(feature))  # (N, class_num)
