"""PP-HGNetV2: blocks that gather the outputs of all their layers (PaddleClas, PP-HGNetV2 document).

A block concatenates its input with the outputs of a chain of layers and squeezes them; the last
two stages use light layers (pointwise, then depthwise). Every activation is followed by a learned
factor and shift. The teachers of 2024. Read next: branch_stem.py.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Channels,
    ClassCount,
    NonNegativeFloat,
    NonNegativeInt,
    Probability,
)
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.branch_stem import BranchStem
from ppcls_lite.models.layers import ConvBN, LearnableAffine, Strides, conv2d

_AFFINE_LR = 0.01  # factor on the learning rate of the scalars


class _Stage(NamedTuple):
    """Widths of a stage: of the layers inside its blocks, of its output."""

    middle: int
    channels: int
    blocks: int


class _Network(NamedTuple):
    """The stem's widths, the stages, and the layers of a block."""

    stem: tuple[int, int]
    stages: tuple[_Stage, ...]
    layers: int


_NETWORKS = {
    "B0": _Network(
        (16, 16),
        (_Stage(16, 64, 1), _Stage(32, 256, 1), _Stage(64, 512, 2), _Stage(128, 1024, 1)),
        layers=3,
    ),
    "B1": _Network(
        (24, 32),
        (_Stage(32, 64, 1), _Stage(48, 256, 1), _Stage(96, 512, 2), _Stage(192, 1024, 1)),
        layers=3,
    ),
    "B2": _Network(
        (24, 32),
        (_Stage(32, 96, 1), _Stage(64, 384, 1), _Stage(128, 768, 3), _Stage(256, 1536, 1)),
        layers=4,
    ),
    "B3": _Network(
        (24, 32),
        (_Stage(32, 128, 1), _Stage(64, 512, 1), _Stage(128, 1024, 3), _Stage(256, 2048, 1)),
        layers=5,
    ),
}


class AffineConvBN(ConvBN):
    """Convolution, batch normalisation, ReLU, learned factor and shift."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        lr_mult: float = 1.0,
        dilation: int = 1,
    ) -> None:
        more = {"lr_mult": lr_mult, "kaiming": True, "bn_decay": False, "dilation": dilation}
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, **more)
        self.lab = LearnableAffine(lr_mult * _AFFINE_LR)

    def forward(self, x: Tensor) -> Tensor:
        return self.lab(super().forward(x))


def _linear(
    in_channels: int,
    out_channels: int,
    size: int,
    groups: int,
    lr: float,
    stride: int = 1,
    dilation: int = 1,
) -> ConvBN:
    """Convolution and batch normalisation without activation."""
    more = {"act": None, "lr_mult": lr, "kaiming": True, "bn_decay": False, "dilation": dilation}
    return ConvBN(in_channels, out_channels, size, stride, groups, **more)


class LightConv(nn.Layer):
    """A linear pointwise convolution, then a depthwise one."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, lr: float, dilation: int
    ) -> None:
        super().__init__()
        self.conv1 = _linear(in_channels, out_channels, 1, 1, lr)
        size = (out_channels, out_channels, kernel_size)
        more = {"groups": out_channels, "lr_mult": lr, "dilation": dilation}
        self.conv2 = AffineConvBN(*size, **more)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Block(nn.Layer):
    """(N, in_channels, H, W) -> (N, stage.channels, H, W), with a shortcut after the first one."""

    def __init__(
        self,
        in_channels: int,
        stage: _Stage,
        layers: int,
        light: bool,
        shortcut: bool,
        lr: float,
        dilation: int,
    ) -> None:
        super().__init__()
        self.layers = nn.LayerList()
        width = in_channels
        for _ in range(layers):
            size = (width, stage.middle)
            if light:
                self.layers.append(LightConv(*size, 5, lr, dilation))
            else:
                self.layers.append(AffineConvBN(*size, 3, lr_mult=lr, dilation=dilation))
            width = stage.middle
        total, half = in_channels + layers * stage.middle, stage.channels // 2
        self.aggregation_squeeze_conv = AffineConvBN(total, half, 1, lr_mult=lr)
        self.aggregation_excitation_conv = AffineConvBN(half, stage.channels, 1, lr_mult=lr)
        self._shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.aggregation_squeeze_conv(paddle.concat(outputs, axis=1))
        y = self.aggregation_excitation_conv(y)
        return x + y if self._shortcut else y


class Stage(nn.Layer):
    """Depthwise halving of the size, except in the first stage, then blocks."""

    def __init__(
        self, in_channels: int, stage: _Stage, layers: int, index: int, lr: float, steps: Strides
    ) -> None:
        super().__init__()
        self.downsample = None
        if index:
            size = (in_channels, in_channels, 3, in_channels)
            self.downsample = _linear(*size, lr, *steps.next(2))
        _, dilation = steps.next(1)
        blocks = []
        for i in range(stage.blocks):
            width = in_channels if i == 0 else stage.channels
            blocks.append(Block(width, stage, layers, index >= 2, i > 0, lr, dilation))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x if self.downsample is None else self.downsample(x))


@register("model")
class PPHGNetV2(Backbone):
    """PP-HGNetV2, the small ones.

    variant: which of the networks. class_num: classes; 0 builds the trunk alone. dropout_prob:
    dropout before the classifier. class_expand: width of the 1x1 convolution after pooling.
    lr_mult_list: learning-rate factors of stem and the four stages. return_patterns,
    return_stages: see `Backbone.tap`. output_stride: see `Strides`.
    """

    stage_names = ("stages[0]", "stages[1]", "stages[2]", "stages[3]")
    head_layers = ("last_conv", "lab", "fc")

    def __init__(
        self,
        variant: Literal["B0", "B1", "B2", "B3"] = "B0",
        class_num: ClassCount = 1000,
        dropout_prob: Probability = 0.0,
        class_expand: Channels = 2048,
        lr_mult_list: list[NonNegativeFloat] = (1.0, 1.0, 1.0, 1.0, 1.0),
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
        output_stride: Literal[8, 16, 32] | None = None,
    ) -> None:
        super().__init__(class_num)
        if len(lr_mult_list) != 5:
            raise UserError(
                "PPHGNetV2: lr_mult_list needs 5 numbers (stem and the four stages), "
                f"got {len(lr_mult_list)}"
            )
        network = _NETWORKS[variant]
        middle, width = network.stem
        layer = functools.partial(AffineConvBN, lr_mult=lr_mult_list[0])
        self.stem = BranchStem(in_channels, middle, width, layer)
        self.stages = nn.LayerList()
        steps = Strides(output_stride)
        steps.next(4)
        for i, stage in enumerate(network.stages):
            self.stages.append(Stage(width, stage, network.layers, i, lr_mult_list[i + 1], steps))
            width = stage.channels
        self.strides = steps.cap(self.strides)
        self.channels = tuple(stage.channels for stage in network.stages)
        if class_num:
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            self.last_conv = conv2d(width, class_expand, 1, kaiming=True)
            self.lab = LearnableAffine(_AFFINE_LR)
            # Like PP-LCNet's: no upscale in training, so inference multiplies by (1 - p).
            self.dropout = nn.Dropout(dropout_prob, mode="downscale_in_infer")
            self.fc = nn.Linear(class_expand, class_num)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        return self.outputs_at(range(4), self.stages, self.stem(x))  # stem: (N, C, H / 4, W / 4)

    def forward_head(self, feature: Tensor) -> Tensor:
        x = self.last_conv(self.avg_pool(feature))  # (N, class_expand, 1, 1)
        return self.fc(self.dropout(self.lab(F.relu(x))).flatten(1))
