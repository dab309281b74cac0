"""MobileNetV1: thirteen depthwise-separable blocks (https://arxiv.org/abs/1704.04861).

The BaseNet that PP-LCNet starts from is of this kind. Read next: pplcnet.py.
"""

from __future__ import annotations

from typing import Literal

from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import KaimingNormal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, ClassCount, NonNegativeInt, WidthScale
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import ConvBN, InOrder, Strides

# (output channels at scale 1, stride) of the blocks, stage by stage.
_STAGES = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)


class DepthwiseSeparable(InOrder):
    """3x3 depthwise, then 1x1 pointwise convolution.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, act: str, stride: int, dilation: int = 1
    ) -> None:
        super().__init__()
        size = (in_channels, in_channels, 3, stride)
        options = {"groups": in_channels, "act": act, "kaiming": True, "dilation": dilation}
        self.depthwise_conv = ConvBN(*size, **options)
        self.pointwise_conv = ConvBN(in_channels, out_channels, 1, act=act, kaiming=True)

    def steps(self) -> list[nn.Layer]:
        return [self.depthwise_conv, self.pointwise_conv]


@register("model")
class MobileNetV1(Backbone):
    """MobileNetV1.

    scale: multiplies all channel counts (rounded down). class_num: classes; 0 builds the trunk
    alone. return_patterns, return_stages: see `Backbone.tap`. output_stride: see `Strides`.
    act: the activation; in_channels: channels of an image.
    """

    stage_names = ("blocks[0]", "blocks[2]", "blocks[4]", "blocks[10]", "blocks[12]")

    def __init__(
        self,
        scale: WidthScale = 1.0,
        class_num: ClassCount = 1000,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        act: Literal["relu", "relu6"] = "relu",
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        channels = int(32 * scale)
        steps = Strides(output_stride)
        self.conv = ConvBN(in_channels, channels, 3, steps.next(2)[0], act=act, kaiming=True)
        blocks: list[nn.Layer] = []
        self._stage_ends = []
        for stage in _STAGES:
            for width, stride in stage:
                in_channels, channels = channels, int(width * scale)
                blocks.append(DepthwiseSeparable(in_channels, channels, act, *steps.next(stride)))
            self._stage_ends.append(len(blocks) - 1)
        self.blocks = nn.Sequential(*blocks)
        self.strides = steps.cap(self.strides)
        self.channels = tuple(int(stage[-1][0] * scale) for stage in _STAGES)
        if class_num:
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            attr = ParamAttr(initializer=KaimingNormal())
            self.fc = nn.Linear(channels, class_num, weight_attr=attr)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        ends = [1 + end for end in self._stage_ends]
        return self.outputs_at(ends, [self.conv, *self.blocks], x)
