"""ShuffleNetV2: split, convolve one half, concatenate, shuffle (https://arxiv.org/abs/1807.11164).

Read next: backbone.py (the contract).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, ClassCount, NonNegativeInt, WidthScale
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import NamedConvBN, Strides
from ppcls_lite.models.shuffled import Shuffled

_STEM_CHANNELS = 24
_REPEATS = (4, 8, 4)
# scale -> channels of the three stages and of the last convolution
_WIDTHS = {
    0.25: (24, 48, 96, 512),
    0.33: (32, 64, 128, 512),
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class Unit(Shuffled):
    """The block at stride 1: half of the channels pass, the other half is convolved."""

    def __init__(self, channels: int, act: str, dilation: int = 1) -> None:
        super().__init__()
        half = channels // 2
        self._conv_pw = NamedConvBN(half, half, 1, act=act, kaiming=True)
        depthwise = {"groups": half, "act": None, "kaiming": True, "dilation": dilation}
        self._conv_dw = NamedConvBN(half, half, 3, **depthwise)
        self._conv_linear = NamedConvBN(half, half, 1, act=act, kaiming=True)

    def branches(self) -> tuple[Sequence[nn.Layer], Sequence[nn.Layer]]:
        return (), (self._conv_pw, self._conv_dw, self._conv_linear)


class DownUnit(Shuffled):
    """The block at stride 2: both halves come from convolutions of the whole input."""

    def __init__(
        self, in_channels: int, channels: int, act: str, stride: int = 2, dilation: int = 1
    ) -> None:
        super().__init__()
        half = channels // 2
        size = (in_channels, in_channels, 3, stride, in_channels)
        self._conv_dw_1 = NamedConvBN(*size, act=None, kaiming=True, dilation=dilation)
        self._conv_linear_1 = NamedConvBN(in_channels, half, 1, act=act, kaiming=True)
        self._conv_pw_2 = NamedConvBN(in_channels, half, 1, act=act, kaiming=True)
        size = (half, half, 3, stride, half)
        self._conv_dw_2 = NamedConvBN(*size, act=None, kaiming=True, dilation=dilation)
        self._conv_linear_2 = NamedConvBN(half, half, 1, act=act, kaiming=True)

    def branches(self) -> tuple[Sequence[nn.Layer], Sequence[nn.Layer]]:
        second = self._conv_pw_2, self._conv_dw_2, self._conv_linear_2
        return (self._conv_dw_1, self._conv_linear_1), second


@register("model")
class ShuffleNetV2(Backbone):
    """ShuffleNetV2.

    scale: 0.25, 0.33, 0.5, 1.0, 1.5 or 2.0. class_num: classes; 0 builds the trunk alone. act:
    the activation. return_patterns, return_stages: see `Backbone.tap`. output_stride: see
    `Strides`. in_channels: channels of an image.
    """

    stage_names = ("2_4", "3_8", "4_4")
    head_layers = ("_last_conv", "_fc")

    def __init__(
        self,
        scale: WidthScale = 1.0,
        class_num: ClassCount = 1000,
        act: Literal["relu", "swish"] = "relu",
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        if scale not in _WIDTHS:
            known = ", ".join(map(str, _WIDTHS))
            raise UserError(f"ShuffleNetV2: scale is one of {known}; got {scale}")
        *widths, last = _WIDTHS[scale]
        channels = _STEM_CHANNELS
        steps = Strides(output_stride)
        self._conv1 = NamedConvBN(
            in_channels, channels, 3, stride=steps.next(2)[0], act=act, kaiming=True
        )
        self._max_pool = nn.MaxPool2D(3, stride=steps.next(2)[0], padding=1)
        self._stages = [
            [f"{stage}_{i}" for i in range(1, repeats + 1)]
            for stage, repeats in enumerate(_REPEATS, start=2)
        ]
        for names, width in zip(self._stages, widths):
            self.add_sublayer(names[0], DownUnit(channels, width, act, *steps.next(2)))
            for name in names[1:]:
                _, dilation = steps.next(1)
                self.add_sublayer(name, Unit(width, act, dilation))
            channels = width
        self.strides = steps.cap(self.strides)
        self.channels = (_STEM_CHANNELS, *widths)
        if class_num:
            self._last_conv = NamedConvBN(channels, last, 1, act=act, kaiming=True)
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            self._fc = nn.Linear(last, class_num)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self._max_pool(self._conv1(x))  # (N, 24, H / 4, W / 4)
        features = [x]
        for names in self._stages:
            for name in names:
                x = getattr(self, name)(x)  # the first of a stage halves the size
            features.append(x)
        return features

    def forward_head(self, feature: Tensor) -> Tensor:
        x = self._last_conv(feature)  # (N, 1024, h, w)
        return self._fc(self.avg_pool(x).flatten(1))  # (N, class_num)
