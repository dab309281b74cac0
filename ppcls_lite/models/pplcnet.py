"""PP-LCNet: depthwise-separable blocks without shortcuts, tuned for Intel CPUs with MKLDNN.

Paper: https://arxiv.org/abs/2109.15099 (table 1 is the network, tables 6 to 9 its ablations).
Stem, depthwise-separable blocks (13 in the paper) in `blocks2` ... `blocks6`, pooling, 1x1
convolution to 1280, classifier. Read next: zoo.py (the eight scales), backbone.py (the contract).
"""

from __future__ import annotations

from typing import Literal

from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Channels,
    ClassCount,
    NonNegativeFloat,
    NonNegativeInt,
    Probability,
    Repeats,
    Stride,
    WidthScale,
)
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import ExpandHeadBackbone
from ppcls_lite.models.layers import (
    ConvBN,
    InOrder,
    SqueezeExcitation,
    Strides,
    make_divisible,
    present,
)


class DepthwiseSeparable(InOrder):
    """Depthwise convolution, optional channel attention, pointwise convolution.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | list[int],
        use_se: bool,
        act: str,
        lr_mult: float,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        common = {"act": act, "lr_mult": lr_mult, "kaiming": True, "bn_decay": False}
        size = (in_channels, in_channels, kernel_size, stride, in_channels)
        self.dw_conv = ConvBN(*size, **common, dilation=dilation)
        self.se = SqueezeExcitation(in_channels, lr_mult=lr_mult) if use_se else None
        self.pw_conv = ConvBN(in_channels, out_channels, 1, **common)

    def steps(self) -> list[nn.Layer]:
        return present(self.dw_conv, self.se, self.pw_conv)


def _mask(name: str, value: str | list[int] | None, default: str, choices: str) -> list[int]:
    """One of the digits `choices` for each block."""
    digits = [str(digit) for digit in (default if value is None else value)]
    if len(digits) != len(default) or set(digits) - {*choices}:
        known = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise UserError(
            f"PPLCNet: {name} needs {len(default)} digits {known}, one for each block from input "
            f"to output, for example '{default}' (quoted in YAML); got {value!r}"
        )
    return [int(digit) for digit in digits]


@register("model")
class PPLCNet(ExpandHeadBackbone):
    """PP-LCNet at any width.

    scale: multiplies all channel counts (rounded to multiples of 8).
    depths, widths: the blocks of blocks2 ... blocks6, and their output channels at scale 1.
    class_num: classes; 0 builds the trunk alone.
    dropout_prob: dropout before the classifier; `None` is none.
    class_expand: width of the 1x1 convolution after pooling; `use_last_conv=False` removes it.
    lr_mult_list: learning-rate factors of stem and blocks2 ... blocks6; 0 freezes a part.
    stride_list: strides of stem and blocks3 ... blocks6, each a number or [height, width].
    se_mask, kernel_mask: a digit for each block from input to output, 1 where it has channel
    attention (default: all of blocks6, 0000000000011) and where its kernel is 5x5 instead of 3x3
    (default: all after the first of blocks5, 0000001111111), 2 where it is 7x7.
    stem_channels: output channels of the first convolution at scale 1.
    return_patterns, return_stages: see `Backbone.tap`. output_stride: see `Strides`.
    last_conv_bias, dropout_mode: see `ExpandHeadBackbone`. in_channels: channels of an image.
    """

    stage_names = ("blocks2", "blocks3", "blocks4", "blocks5", "blocks6")
    stride_layers = ("conv1.conv", *(f"blocks{stage}.0.dw_conv.conv" for stage in range(3, 7)))

    def __init__(
        self,
        scale: WidthScale = 1.0,
        class_num: ClassCount = 1000,
        dropout_prob: Probability | None = 0.2,
        class_expand: Channels = 1280,
        lr_mult_list: list[NonNegativeFloat] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        stride_list: list[Stride | list[Stride]] = (2, 2, 2, 2, 2),
        use_last_conv: bool = True,
        act: Literal["hardswish", "relu", "relu6"] = "hardswish",
        se_mask: str | list[int] | None = None,
        kernel_mask: str | list[int] | None = None,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        depths: list[Repeats] = (1, 2, 2, 6, 2),
        widths: list[Channels] = (32, 64, 128, 256, 512),
        output_stride: Literal[8, 16, 32] | None = None,
        last_conv_bias: bool = False,
        dropout_mode: Literal["downscale_in_infer", "upscale_in_train"] = "downscale_in_infer",
        in_channels: Channels = 3,
        stem_channels: Channels = 16,
    ) -> None:
        super().__init__(class_num)
        for key, values in (("depths", depths), ("widths", widths)):
            if len(values) != len(self.stage_names):
                raise UserError(
                    f"PPLCNet: {key} needs 5 numbers (blocks2 ... blocks6), got {list(values)}"
                )
        if len(lr_mult_list) != 6:
            raise UserError(
                "PPLCNet: lr_mult_list needs 6 numbers (stem, blocks2 ... blocks6), "
                f"got {len(lr_mult_list)}"
            )
        pairs = [stride for stride in stride_list if not isinstance(stride, int)]
        if len(stride_list) != 5 or any(len(pair) != 2 for pair in pairs):
            raise UserError(
                "PPLCNet: stride_list needs 5 entries (stem, blocks3 ... blocks6), each a number "
                f"or [height, width]; got {list(stride_list)}"
            )
        early = sum(depths[:3]) + 1  # blocks before the 5x5 kernels: table 8, third row
        kernels = "0" * early + "1" * (sum(depths) - early)
        attention = "0" * sum(depths[:4]) + "1" * depths[4]  # table 7, third row
        use_se = iter(_mask("se_mask", se_mask, attention, "01"))
        grown = iter(_mask("kernel_mask", kernel_mask, kernels, "012"))

        steps, reached = Strides(output_stride), []
        channels = make_divisible(stem_channels * scale)
        stride, _ = steps.next(stride_list[0])
        self.conv1 = ConvBN(
            in_channels, channels, 3, stride, 1, act, lr_mult_list[0], kaiming=True, bn_decay=False
        )
        strides = [1, *stride_list[1:]]  # blocks2 keeps the size
        for name, depth, width, stride, lr_mult in zip(
            self.stage_names, depths, widths, strides, lr_mult_list[1:]
        ):
            blocks = []
            for i in range(depth):
                in_channels, channels = channels, make_divisible(width * scale)
                size, attends = 3 + 2 * next(grown), bool(next(use_se))
                here, dilation = steps.next(stride if i == 0 else 1)
                shape = (in_channels, channels, size, here, attends, act, lr_mult, dilation)
                blocks.append(DepthwiseSeparable(*shape))
            self.add_sublayer(name, nn.Sequential(*blocks))
            reached.append(steps.total)
        self.channels = tuple(make_divisible(width * scale) for width in widths[1:])
        self.strides = tuple(reached[1:])
        self._build_head(
            *(channels, class_expand, act, dropout_prob, use_last_conv),
            *(last_conv_bias, dropout_mode),
        )
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        stages = [getattr(self, name) for name in self.stage_names]
        return self.outputs_at(range(2, 6), [self.conv1, *stages], x)
