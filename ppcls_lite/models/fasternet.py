"""FasterNet: a full convolution over a quarter of the channels, the others pass through.

Paper: https://arxiv.org/abs/2303.03667 (section 3; appendix, table 9 has the networks).
Read next: starnet.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Normal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import BelowOne, Channels, ClassCount, NonNegativeInt
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import DropPath, activation, drop_path_rates

_PARTS = 4  # one of which is convolved
_EXPANSION = 2
_DEPTHS = (1, 2, 8, 2)
_DEVIATION = 0.02  # of all initial weights


class _Network(NamedTuple):
    """Width of the first stage, activation, and how often the last block is left out."""

    width: int
    act: str
    drop_path: float


_NETWORKS = {
    "T0": _Network(40, "gelu", 0.0),
    "T1": _Network(64, "gelu", 0.02),
    "T2": _Network(96, "relu", 0.05),
}


def _conv(in_channels: int, out_channels: int, size: int, stride: int, padding: int) -> nn.Conv2D:
    attr = ParamAttr(initializer=Normal(0.0, _DEVIATION))
    steps = {"stride": stride, "padding": padding}
    return nn.Conv2D(in_channels, out_channels, size, **steps, weight_attr=attr, bias_attr=False)


class PartialConv(nn.Layer):
    """3x3 convolution of the first quarter of the channels: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // _PARTS
        self._sizes = [part, channels - part]
        self.partial_conv3 = _conv(part, part, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        part, rest = paddle.split(x, self._sizes, axis=1)
        return paddle.concat([self.partial_conv3(part), rest], axis=1)


class Block(nn.Layer):
    """Partial convolution, then two pointwise ones, with a shortcut around all."""

    def __init__(self, channels: int, act: str, drop_path: float) -> None:
        super().__init__()
        hidden = channels * _EXPANSION
        self.mlp = nn.Sequential(
            _conv(channels, hidden, 1, 1, 0),
            nn.BatchNorm2D(hidden),
            activation(act),
            _conv(hidden, channels, 1, 1, 0),
        )
        self.spatial_mixing = PartialConv(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.spatial_mixing(x)))


class Stage(nn.Layer):
    """Blocks, under the key name `blocks`."""

    def __init__(self, channels: int, act: str, rates: list[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Block(channels, act, rate) for rate in rates])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Merging(nn.Layer):
    """2x2 patches to twice the channels: (N, C, H, W) -> (N, 2 C, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = _conv(channels, 2 * channels, 2, 2, 0)
        self.norm = nn.BatchNorm2D(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


class PatchEmbed(nn.Layer):
    """4x4 patches to channels: (N, in_channels, H, W) -> (N, channels, H / 4, W / 4)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = _conv(in_channels, channels, 4, 4, 0)
        # PaddleClas reads the authors' momentum the other way round here, and here alone: the
        # running statistics are nearly those of the last batch.
        self.norm = nn.BatchNorm2D(channels, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


@register("model")
class FasterNet(Backbone):
    """FasterNet, the tiny ones.

    variant: which of the networks. class_num: classes; 0 builds the trunk alone. drop_path_rate:
    how often the last block is left out in training (it grows from 0 over the blocks); left out,
    the paper's for the variant. return_patterns, return_stages: see `Backbone.tap`.
    """

    stage_names = ("stages[0]", "stages[2]", "stages[4]", "stages[6]")
    head_layers = ("avgpool_pre_head", "head")

    def __init__(
        self,
        variant: Literal["T0", "T1", "T2"] = "T0",
        class_num: ClassCount = 1000,
        drop_path_rate: BelowOne | None = None,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        network = _NETWORKS[variant]
        last = network.drop_path if drop_path_rate is None else drop_path_rate
        rates = drop_path_rates(last, sum(_DEPTHS))
        self.channels = tuple(network.width * 2**i for i in range(4))
        self.patch_embed = PatchEmbed(in_channels, network.width)
        parts: list[nn.Layer] = []
        for channels, depth in zip(self.channels, _DEPTHS):
            if parts:
                parts.append(Merging(channels // 2))
            parts.append(Stage(channels, network.act, rates[:depth]))
            rates = rates[depth:]
        self.stages = nn.Sequential(*parts)
        if class_num:
            self.avgpool_pre_head = nn.Sequential(
                nn.AdaptiveAvgPool2D(1),
                _conv(channels, 1280, 1, 1, 0),
                activation(network.act),
            )
            attr = ParamAttr(initializer=Normal(0.0, _DEVIATION))
            self.head = nn.Linear(1280, class_num, weight_attr=attr)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        return self.outputs_at((0, 2, 4, 6), self.stages, self.patch_embed(x))

    def forward_head(self, feature: Tensor) -> Tensor:
        return self.head(self.avgpool_pre_head(feature).flatten(1))
