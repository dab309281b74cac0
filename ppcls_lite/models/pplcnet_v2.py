"""PP-LCNetV2: PP-LCNet with merged depthwise kernels, two-step pointwise convolutions, shortcuts.

Described in PaddleClas's PP-LCNetV2 document. Stages 3 and 4 train depthwise branches of 5x5, 3x3
and 1x1 that `reparameterize` folds into one 5x5 convolution for inference; stage 3 adds channel
attention and a squeeze-expand pair of pointwise convolutions; stage 4 a shortcut. ReLU throughout.
Read next: pplcnet.py (the first version).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Channels,
    ClassCount,
    NonNegativeInt,
    Probability,
    Repeats,
    WidthScale,
)
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import ExpandHeadBackbone
from ppcls_lite.models.layers import (
    ConvBN,
    SqueezeExcitation,
    Strides,
    Summed,
    make_divisible,
)


class _Stage(NamedTuple):
    """What the blocks of one stage have; `channels` is the output width at scale 1."""

    channels: int
    kernel_size: int = 3
    branched: bool = False
    use_se: bool = False
    split_pointwise: bool = False
    shortcut: bool = False


_STAGES = (
    _Stage(128),
    _Stage(256),
    _Stage(512, kernel_size=5, branched=True, use_se=True, split_pointwise=True),
    _Stage(1024, kernel_size=5, branched=True, shortcut=True),
)


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int, **more: object) -> ConvBN:
    return ConvBN(in_channels, out_channels, kernel_size, kaiming=True, bn_decay=False, **more)


class Block(Summed):
    """Depthwise convolution (plain or a sum of parallel ones), attention, pointwise convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, stage: _Stage, steps: Strides
    ) -> None:
        super().__init__()
        own_stride = stride
        stride, dilation = steps.next(stride)
        size = stage.kernel_size
        if stage.branched:
            # A strided 1x1 kernel would only see every second pixel, so it is left out there.
            sizes = [k for k in range(size, 0, -2) if k > 1 or own_stride == 1]
            depthwise = {"groups": in_channels, "act": None, "dilation": dilation}
            depthwise["stride"] = stride
            self.dw_act = nn.ReLU()
            self.dw_conv_list = nn.LayerList(
                [_conv_bn(in_channels, in_channels, k, **depthwise) for k in sizes]
            )
            self.dw_conv = nn.Conv2D(
                *(in_channels, in_channels, size, stride, size // 2 * dilation, dilation),
                groups=in_channels,
            )
            # Filled by `merge`; no gradient until then, so no optimizer or all-reduce waits for it.
            self.dw_conv.weight.stop_gradient = self.dw_conv.bias.stop_gradient = True
        else:
            common = {"stride": stride, "groups": in_channels, "dilation": dilation}
            self.dw_conv = _conv_bn(in_channels, in_channels, size, **common)
        self.branched = stage.branched
        self.merged = False
        self.se = SqueezeExcitation(in_channels, gate=F.sigmoid) if stage.use_se else None
        self.split = stage.split_pointwise
        if self.split:
            self.pw_conv_1 = _conv_bn(in_channels, out_channels // 2, 1)
            self.pw_conv_2 = _conv_bn(out_channels // 2, out_channels, 1)
        else:
            self.pw_conv = _conv_bn(in_channels, out_channels, 1)
        self.shortcut = stage.shortcut and own_stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self._depthwise(x)  # (N, in_channels, H / stride, W / stride)
        if self.se is not None:
            y = self.se(y)
        if self.split:
            y = self.pw_conv_1(y)  # (N, out_channels / 2, H / stride, W / stride)
            y = self.pw_conv_2(y)  # (N, out_channels, H / stride, W / stride)
        else:
            y = self.pw_conv(y)  # (N, out_channels, H / stride, W / stride)
        return x + y if self.shortcut else y

    def _depthwise(self, x: Tensor) -> Tensor:
        if not self.branched:
            return self.dw_conv(x)  # batch norm and ReLU are inside
        return super().forward(x)  # the sum

    def branches(self) -> list[list[nn.Layer]]:
        return [[conv] for conv in ([self.dw_conv] if self.merged else self.dw_conv_list)]

    def finish(self) -> list[nn.Layer]:
        return [self.dw_act]

    def merge(self) -> bool:
        """Fold the branches and their batch norms into `dw_conv` and drop them."""
        if not self.branched or self.merged:
            return False
        size = self.dw_conv.weight.shape[-1]
        kernel, bias = 0.0, 0.0
        for branch in self.dw_conv_list:
            norm, pad = branch.bn, (size - branch.conv.weight.shape[-1]) // 2
            factor = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)  # (C,)
            scaled = branch.conv.weight * factor.reshape([-1, 1, 1, 1])  # (C, 1, k, k)
            kernel = kernel + F.pad(scaled, [pad] * 4)  # (C, 1, size, size)
            bias = bias + norm.bias - norm._mean * factor
        self.dw_conv.weight.set_value(kernel)
        self.dw_conv.bias.set_value(bias)
        self.dw_conv.weight.stop_gradient = self.dw_conv.bias.stop_gradient = False
        del self.dw_conv_list
        self.merged = True
        return True


@register("model")
class PPLCNetV2(ExpandHeadBackbone):
    """PP-LCNetV2 at any width and depth.

    scale: multiplies all channel counts (rounded to multiples of 8). depths: blocks of the four
    stages. class_num: classes; 0 builds the trunk alone. dropout_prob, class_expand,
    use_last_conv: the head, as in PPLCNet. return_patterns, return_stages: see `Backbone.tap`.
    output_stride: see `Strides`.
    dropout_mode: see `ExpandHeadBackbone`. in_channels: channels of an image.
    """

    stage_names = ("stages[0]", "stages[1]", "stages[2]", "stages[3]")

    def __init__(
        self,
        scale: WidthScale = 1.0,
        depths: list[Repeats] = (2, 2, 6, 2),
        class_num: ClassCount = 1000,
        dropout_prob: Probability | None = 0.2,
        class_expand: Channels = 1280,
        use_last_conv: bool = True,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        dropout_mode: Literal["downscale_in_infer", "upscale_in_train"] = "downscale_in_infer",
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        if len(depths) != len(_STAGES):
            raise UserError(f"PPLCNetV2: depths needs 4 numbers, one a stage; got {list(depths)}")
        stem = make_divisible(32 * scale)
        channels = make_divisible(64 * scale)
        steps = Strides(output_stride)
        self.stem = nn.Sequential(
            _conv_bn(in_channels, stem, 3, stride=steps.next(2)[0]),
            Block(stem, channels, 1, _Stage(channels), steps),
        )
        self.stages = nn.LayerList()
        for stage, depth in zip(_STAGES, depths):
            blocks = []
            for i in range(depth):
                in_channels, channels = channels, make_divisible(stage.channels * scale)
                stride = 2 if i == 0 else 1
                blocks.append(Block(in_channels, channels, stride, stage, steps))
            self.stages.append(nn.Sequential(*blocks))
        self.strides = steps.cap(self.strides)
        self.channels = tuple(make_divisible(stage.channels * scale) for stage in _STAGES)
        self._build_head(
            *(channels, class_expand, "relu", dropout_prob, use_last_conv),
            dropout_mode=dropout_mode,
        )
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        return self.outputs_at(range(4), self.stages, self.stem(x))  # stem: (N, C, H / 2, W / 2)

    def unmerged(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The largest branch computes what is merged; the others begin with a scale of 0."""
        found = {key: value.numpy() for key, value in self.state_dict().items()} | dict(state)
        for name, block in self.named_sublayers():
            if not isinstance(block, Block) or not block.branched:
                continue
            kernel, bias = (state[f"{name}.dw_conv.{part}"] for part in ("weight", "bias"))
            for number, branch in enumerate(block.dw_conv_list):
                place, merged = f"{name}.dw_conv_list.{number}", number == 0
                found[f"{place}.bn.weight"] = np.full_like(bias, merged)
                found[f"{place}.bn.bias"] = bias * merged
                if merged:
                    found[f"{place}.conv.weight"] = kernel
                    found[f"{place}.bn._mean"] = np.zeros_like(bias)
                    found[f"{place}.bn._variance"] = np.full_like(bias, 1 - branch.bn._epsilon)
        return found

    def reparameterize(self) -> int:
        blocks = [layer for layer in self.sublayers() if isinstance(layer, Block)]
        with paddle.no_grad():
            return sum(block.merge() for block in blocks)
