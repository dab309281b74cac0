"""MobileNetV2: inverted residuals with linear bottlenecks (https://arxiv.org/abs/1801.04381).

Read next: mobilenet_v3.py (the same block with attention and h-swish).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, ClassCount, Ignored, NonNegativeInt, WidthScale
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import InOrder, NamedConvBN, Strides


class _Group(NamedTuple):
    """A row of the paper's table 2."""

    expansion: int
    channels: int  # at scale 1
    repeats: int
    stride: int  # of the first


_GROUPS = {
    "conv2": _Group(1, 16, 1, 1),
    "conv3": _Group(6, 24, 2, 2),
    "conv4": _Group(6, 32, 3, 2),
    "conv5": _Group(6, 64, 4, 2),
    "conv6": _Group(6, 96, 3, 1),
    "conv7": _Group(6, 160, 3, 2),
    "conv8": _Group(6, 320, 1, 1),
}
_STAGE_ENDS = ("conv3", "conv4", "conv6", "conv8")


class InvertedResidual(InOrder):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection, with a shortcut after the first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        step: tuple[int, int],  # stride and dilation
        expansion: int,
        shortcut: bool,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self._expand_conv = NamedConvBN(in_channels, hidden, 1, act="relu6")
        stride, dilation = step
        self._bottleneck_conv = NamedConvBN(
            hidden, hidden, 3, stride, hidden, act="relu6", dilation=dilation
        )
        self._linear_conv = NamedConvBN(hidden, out_channels, 1, act=None)
        self.shortcut = shortcut

    def steps(self) -> list[nn.Layer]:
        return [self._expand_conv, self._bottleneck_conv, self._linear_conv]


class _Repeated(InOrder):
    """One group of blocks, under the official key names `_first_block`, `conv3_2`, ..."""

    def __init__(
        self, name: str, in_channels: int, channels: int, group: _Group, steps: Strides
    ) -> None:
        super().__init__()
        self._first_block = InvertedResidual(
            in_channels, channels, steps.next(group.stride), group.expansion, shortcut=False
        )
        for i in range(2, group.repeats + 1):
            size = (channels, channels, steps.next(1), group.expansion)
            self.add_sublayer(f"{name}_{i}", InvertedResidual(*size, shortcut=True))

    def steps(self) -> list[nn.Layer]:
        return list(self.children())


@register("model")
class MobileNetV2(Backbone):
    """MobileNetV2.

    scale: multiplies all channel counts (rounded down; the last convolution never below 1280).
    class_num: classes; 0 builds the trunk alone. return_patterns, return_stages: see
    `Backbone.tap`. output_stride: see `Strides`. in_channels:
    channels of an image.
    """

    stage_names = _STAGE_ENDS
    head_layers = ("conv9", "out")

    def __init__(
        self,
        scale: WidthScale = 1.0,
        class_num: ClassCount = 1000,
        prefix_name: Ignored = "",
        data_format: Ignored = "NCHW",
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        channels = int(32 * scale)
        steps = Strides(output_stride)
        self.conv1 = NamedConvBN(in_channels, channels, 3, stride=steps.next(2)[0], act="relu6")
        for name, group in _GROUPS.items():
            in_channels, channels = channels, int(group.channels * scale)
            self.add_sublayer(name, _Repeated(name, in_channels, channels, group, steps))
        self.strides = steps.cap(self.strides)
        self.channels = tuple(int(_GROUPS[name].channels * scale) for name in _STAGE_ENDS)
        if class_num:
            width = int(1280 * max(1.0, scale))
            self.conv9 = NamedConvBN(channels, width, 1, act="relu6")
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            self.out = nn.Linear(width, class_num)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        ends = [1 + i for i, name in enumerate(_GROUPS) if name in _STAGE_ENDS]
        return self.outputs_at(ends, [self.conv1, *(getattr(self, name) for name in _GROUPS)], x)

    def forward_head(self, feature: Tensor) -> Tensor:
        x = self.conv9(feature)  # (N, 1280, h, w)
        return self.out(self.avg_pool(x).flatten(1))  # (N, class_num)
