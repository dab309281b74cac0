"""ResNet in the original and the `vd` form: the teachers of the zoo.

Papers: https://arxiv.org/abs/1512.03385 and, for `vd` (three 3x3 stem convolutions, average
pooling before the strided shortcut), https://arxiv.org/abs/1812.01187. Every first block of a
stage has a shortcut convolution here. Read next: backbone.py (the contract).
"""

from __future__ import annotations

import math
from typing import Literal

from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Uniform

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Channels,
    ClassCount,
    Ignored,
    NonNegativeFloat,
    NonNegativeInt,
    Stride,
)
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import ConvBN, Strides, Summed, present

_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 12, 48, 3),
}
_WIDTHS = (64, 128, 256, 512)


class PooledShortcut(ConvBN):
    """The strided shortcut of `vd`: average pooling halves the size, the 1x1 convolution does not.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, lr_mult: float) -> None:
        super().__init__(in_channels, out_channels, 1, act=None, lr_mult=lr_mult)
        # Without ceil_mode, which changes nothing here: oneDNN cannot run the two on odd sizes.
        self.avg_pool = nn.AvgPool2D(2, stride, padding="SAME")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.avg_pool(x))


class Block(Summed):
    """The residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        bottleneck: bool,
        shortcut: Literal["identity", "conv", "pooled"],
        lr_mult: float,
        steps: Strides,
    ) -> None:
        super().__init__()
        given = stride
        stride, dilation = steps.next(given)
        _, after = steps.next(1)
        if stride != given and shortcut == "pooled":
            shortcut = "conv"  # nothing to halve
        out_channels = self.out_channels = width * 4 if bottleneck else width
        if bottleneck:
            self.conv0 = ConvBN(in_channels, width, 1, lr_mult=lr_mult)
            self.conv1 = ConvBN(width, width, 3, stride, lr_mult=lr_mult, dilation=dilation)
            self.conv2 = ConvBN(width, out_channels, 1, act=None, lr_mult=lr_mult)
        else:
            self.conv0 = ConvBN(in_channels, width, 3, stride, lr_mult=lr_mult, dilation=dilation)
            self.conv1 = ConvBN(width, width, 3, act=None, lr_mult=lr_mult, dilation=after)
            self.conv2 = None
        self.short = None
        if shortcut == "pooled":
            self.short = PooledShortcut(in_channels, out_channels, stride, lr_mult)
        elif shortcut == "conv":
            self.short = ConvBN(in_channels, out_channels, 1, stride, act=None, lr_mult=lr_mult)

        self.relu = nn.ReLU()

    def branches(self) -> list[list[nn.Layer]]:
        return [present(self.conv0, self.conv1, self.conv2), present(self.short)]

    def finish(self) -> list[nn.Layer]:
        return [self.relu]  # (N, out_channels, H / stride, W / stride)


@register("model")
class ResNet(Backbone):
    """ResNet.

    depth: layers. version: `vd`, or `vb` for the original. class_num: classes; 0 builds the trunk
    alone. lr_mult_list: learning-rate factors of stem and the four stages. stride_list: strides
    of stem, pooling and stages 2 to 4, each a number or [height, width]. in_channels:
    channels of the input, also called input_image_channel. stem_act: activation of the stem.
    return_patterns, return_stages: see `Backbone.tap`. output_stride: see `Strides`; a pooled
    shortcut that would halve nothing is a plain one.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152, 200] = 50,
        version: Literal["vd", "vb"] = "vd",
        class_num: ClassCount = 1000,
        lr_mult_list: list[NonNegativeFloat] = (1.0, 1.0, 1.0, 1.0, 1.0),
        stride_list: list[Stride | list[Stride]] = (2, 2, 2, 2, 2),
        data_format: Ignored = "NCHW",
        input_image_channel: Channels | None = None,
        stem_act: Literal["relu"] | None = "relu",
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        for name, values in (("lr_mult_list", lr_mult_list), ("stride_list", stride_list)):
            if len(values) != 5:
                raise UserError(f"ResNet: {name} needs 5 numbers, got {len(values)}")
        if any(len(stride) != 2 for stride in stride_list if not isinstance(stride, int)):
            raise UserError(
                "ResNet: stride_list: expected numbers or pairs [height, width], "
                f"got {list(stride_list)}"
            )
        bottleneck = depth >= 50
        stem = ((32, 3), (32, 3), (64, 3)) if version == "vd" else ((64, 7),)
        steps = Strides(output_stride)
        convs, channels, stride = (
            [],
            input_image_channel or in_channels,
            steps.next(stride_list[0])[0],
        )
        for width, kernel_size in stem:
            size = (channels, width, kernel_size, stride)
            convs.append(ConvBN(*size, act=stem_act, lr_mult=lr_mult_list[0]))
            channels, stride = width, 1
        self.stem = nn.Sequential(*convs)
        self.max_pool = nn.MaxPool2D(3, stride=steps.next(stride_list[1])[0], padding=1)

        blocks, ends, outputs, reached = [], [], [], []
        for stage, (repeats, width) in enumerate(zip(_DEPTHS[depth], _WIDTHS)):
            stride = stride_list[stage + 1] if stage > 0 else 1
            shortcut = "pooled" if version == "vd" and stage > 0 else "conv"
            for _ in range(repeats):
                lr_mult = lr_mult_list[stage + 1]
                size = (channels, width, stride, bottleneck)
                blocks.append(Block(*size, shortcut, lr_mult, steps))
                channels, stride, shortcut = blocks[-1].out_channels, 1, "identity"
            ends.append(len(blocks) - 1)
            outputs.append(channels)
            reached.append(steps.total)
        self.blocks = nn.Sequential(*blocks)
        self._stage_ends = tuple(ends)
        self.channels = tuple(outputs)
        self.strides = tuple(reached)
        self.stage_names = tuple(f"blocks[{i}]" for i in ends)
        if class_num:
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            bound = 1 / math.sqrt(channels)
            attr = ParamAttr(initializer=Uniform(-bound, bound))
            self.fc = nn.Linear(channels, class_num, weight_attr=attr)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self.max_pool(self.stem(x))  # (N, 64, H / 4, W / 4)
        return self.outputs_at(self._stage_ends, self.blocks, x)
