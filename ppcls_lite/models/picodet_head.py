"""PicoDet's heads: at every place of every level, what is there and where its sides are.

A head is described in the recipe, `head: {name: PicoHeadV2, num_convs: 2}`, and built for the
neck's channels and the classes. Each level has weights of its own. Where a side is, it says as a
distribution over the whole numbers 0 ... reg_max, in strides (Li et al. 2020, arXiv 2006.04388).
Names of layers and first weights are PaddleDetection's. Read before: picodet_neck.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, KaimingUniform, Normal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Probability, Reach, Repeats
from ppcls_lite.errors import UserError
from ppcls_lite.models.layers import ConvNorms, activation, batch_norm
from ppcls_lite.models.picodet_neck import DepthwisePointwise, initialize

# Of a level: class logits (None: there are none), class scores (N, C, h, w), and the logits of the
# sides (N, 4 * bins, h, w): left, top, right, bottom.
Answer = tuple[Tensor | None, Tensor, Tensor]

_KERNEL = 5
_TINY = 1e-9  # under the square root, whose slope is endless at 0


class ConvNorm(ConvNorms):
    """Convolution, batch normalisation, which weight decay leaves out, and activation."""

    def __init__(self, channels: int, kernel_size: int, act: str, groups: int = 1) -> None:
        super().__init__()
        self.conv = _conv(channels, channels, kernel_size, 0.01, groups=groups, bias=False)
        self.norm = batch_norm(channels, decay=False)
        self.act = activation(act)

    def joined(self) -> Sequence[tuple[nn.Conv2D, nn.BatchNorm2D, nn.Layer]]:
        return [(self.conv, self.norm, self.act)]


class Attention(nn.Layer):
    """Channels scaled by a sigmoid of their means, mixed and activated; no squeezing."""

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc = _conv(channels, channels, 1, 0.001)
        self.conv = ConvNorm(channels, 1, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * F.sigmoid(self.fc(self.avg_pool(x))))


class PicoFeat(nn.Layer):
    """The convolutions of a head before its answers, for every level.

    Called with a level's number and feature (N, C, h, w), it gives two such features: the second
    one went through the attention, if there is one.
    """

    def __init__(self, channels: int, levels: int, num_convs: int, use_se: bool, act: str) -> None:
        super().__init__()
        self._rows = []
        for level in range(levels):
            size = channels, _KERNEL, act, channels
            wide = nn.LayerList(ConvNorm(*size) for _ in range(num_convs))
            narrow = nn.LayerList(ConvNorm(channels, 1, act) for _ in range(num_convs))
            self.add_sublayer(f"cls_conv_dw{level}", wide)
            self.add_sublayer(f"cls_conv_pw{level}", narrow)
            self._rows.append([conv for pair in zip(wide, narrow) for conv in pair])
        if use_se:
            self.se = nn.LayerList(Attention(channels, act) for _ in range(levels))
        self.use_se = use_se

    def forward(self, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self._rows[level]:
            x = conv(x)
        return x, self.se[level](x) if self.use_se else x


@dataclass
class Head:
    """What the heads share, see PicoHeadV2."""

    num_convs: Repeats = 2
    use_se: bool = False
    reg_max: Reach = 7
    cell_offset: Probability = 0.5
    prior_prob: Probability = 0.01
    act: Literal["hardswish", "relu", "relu6"] = "hardswish"

    def __post_init__(self) -> None:
        if not 0 < self.prior_prob < 1:
            raise UserError(
                f"prior_prob: expected a number between 0 and 1, found {self.prior_prob}"
            )

    @property
    def first_bias(self) -> float:
        """With it every score begins at prior_prob."""
        return -math.log((1 - self.prior_prob) / self.prior_prob)


class HeadLayer(nn.Layer):
    """A head in a network: features (N, C, h, w) of the levels -> what it says of each level.

    bins: numbers that a side's distribution is over; offset: where in a cell its place is, in
    strides.
    """

    def __init__(self, spec: Head, channels: int, levels: int) -> None:
        super().__init__()
        self.bins, self.offset = spec.reg_max + 1, spec.cell_offset
        size = (channels, levels, spec.num_convs, spec.use_se, spec.act)
        self.conv_feat = PicoFeat(*size)

    def answers(self, features: list[Tensor]) -> list[Answer]:
        """What the head says of each level."""
        return [self._answer(level, *self.conv_feat(level, x)) for level, x in enumerate(features)]

    def _answer(self, level: int, plain: Tensor, attended: Tensor) -> Answer:
        raise NotImplementedError


@register("head")
@dataclass
class PicoHead(Head):
    """The head of the first PicoDet: one convolution gives classes and sides.

    Args: those of PicoHeadV2, without the alignment.
    """

    num_convs: Repeats = 4

    def build(self, channels: int, levels: int, class_num: int) -> HeadLayer:
        """The layer for so many levels of `channels`."""
        return _Together(self, channels, levels, class_num)


class _Together(HeadLayer):
    def __init__(self, spec: PicoHead, channels: int, levels: int, class_num: int) -> None:
        super().__init__(spec, channels, levels)
        self.class_num = class_num
        outputs = class_num + 4 * self.bins
        for level in range(levels):
            conv = _conv(channels, outputs, 1, 0.01, spec.first_bias)
            self.add_sublayer(f"head_cls{level}", conv)

    def _answer(self, level: int, plain: Tensor, attended: Tensor) -> Answer:
        both = getattr(self, f"head_cls{level}")(attended)
        parts = [self.class_num, 4 * self.bins]
        logits, sides = paddle.split(both, parts, axis=1)  # the gradient of a slice is slower
        return logits, F.sigmoid(logits), sides


@register("head")
@dataclass
class PicoHeadV2(Head):
    """The head of the second PicoDet: a score is the mean of class and alignment.

    Args:
        num_convs: pairs of a 5x5 depthwise and a 1x1 convolution before the answers.
        use_se: channel attention after them.
        reg_max: the farthest that a side can be from its place, in strides.
        cell_offset: where in its cell a place is, in strides.
        prior_prob: what all scores begin at.
        act: the activation.
        use_align_head: scores are the geometric mean of the class's probability and of one that
            all classes share, of how well the box fits (as in TOOD, arXiv 2108.07755).
    """

    use_se: bool = True
    use_align_head: bool = True

    def build(self, channels: int, levels: int, class_num: int) -> HeadLayer:
        """The layer for so many levels of `channels`."""
        return _Apart(self, channels, levels, class_num)


class _Apart(HeadLayer):
    def __init__(self, spec: PicoHeadV2, channels: int, levels: int, class_num: int) -> None:
        super().__init__(spec, channels, levels)
        self.aligned = spec.use_align_head
        if self.aligned:
            options = {"act": spec.act, "last_act": False}
            self.cls_align = nn.LayerList(
                DepthwisePointwise(channels, 1, _KERNEL, **options) for _ in range(levels)
            )
            initialize(self.cls_align, KaimingUniform())
        for level in range(levels):
            classes = _conv(channels, class_num, 1, 0.01, spec.first_bias)
            self.add_sublayer(f"head_cls{level}", classes)
            self.add_sublayer(f"head_reg{level}", _conv(channels, 4 * self.bins, 1, 0.01))

    def _answer(self, level: int, plain: Tensor, attended: Tensor) -> Answer:
        logits = getattr(self, f"head_cls{level}")(attended)
        sides = getattr(self, f"head_reg{level}")(attended)
        scores = F.sigmoid(logits)
        if not self.aligned:
            return logits, scores, sides
        fit = F.sigmoid(self.cls_align[level](plain))  # (N, 1, h, w)
        return None, (scores * fit + _TINY).sqrt(), sides


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    deviation: float,
    first_bias: float = 0.0,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2D:
    """A convolution whose weights are drawn from Normal(0, deviation)."""
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        groups=groups,
        weight_attr=ParamAttr(initializer=Normal(0.0, deviation)),
        bias_attr=ParamAttr(initializer=Constant(first_bias)) if bias else False,
    )
