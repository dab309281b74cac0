"""DeepLabV3+: a class for each pixel, over any trunk of the zoo (https://arxiv.org/abs/1802.02611).

Atrous spatial pyramid pooling on the trunk's last feature (section 3.1 of the paper and
https://arxiv.org/abs/1706.05587), upsampled and joined with the first one by a small decoder.
Names, shapes and order of the weights are PaddleSeg's, so that its files load; the PP-LCNet paper
(https://arxiv.org/abs/2109.15099, table 5) compares trunks in it. Read before: backbone.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, ClassCount, Edge, NonNegativeInt, TrunkSpec
from ppcls_lite.errors import UserError
from ppcls_lite.models.layers import NamedConvBN
from ppcls_lite.models.network import Network
from ppcls_lite.models.upsample import Bilinear

_LOW = 48  # of the first feature in the decoder
# With these a kernel reaches equally far on the image at each output stride; 8 and 16 are the
# usual ones, and 32 has a quarter of those of 8.
_RATIOS = {8: (1, 12, 24, 36), 16: (1, 6, 12, 18), 32: (1, 3, 6, 9)}
Resize = Callable[[Tensor, Tensor], Tensor]  # a map to the size of another one


class Separable(nn.Layer):
    """3x3 depthwise convolution with its normalisation, then 1x1 with normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        size = (in_channels, in_channels, 3, 1, in_channels)
        self.depthwise_conv = NamedConvBN(*size, act=None, dilation=dilation, bias=True)
        self.piontwise_conv = NamedConvBN(in_channels, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.piontwise_conv(self.depthwise_conv(x))


class ASPP(nn.Layer):
    """Atrous spatial pyramid pooling: (N, C, h, w) -> (N, width, h, w)."""

    def __init__(self, in_channels: int, ratios: Sequence[int], width: int) -> None:
        super().__init__()
        self.aspp_blocks = nn.LayerList(
            Separable(in_channels, width, ratio)
            if ratio > 1
            else NamedConvBN(in_channels, width, 1, bias=True)
            for ratio in ratios
        )
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2D(1), NamedConvBN(in_channels, width, 1)
        )
        self.conv_bn_relu = NamedConvBN(width * (len(ratios) + 1), width, 1, bias=True)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [block(x) for block in self.aspp_blocks]  # (N, width, h, w) each
        branches.append(self._pooled(x).expand_as(branches[0]))
        return self.dropout(self.conv_bn_relu(paddle.concat(branches, axis=1)))

    def _pooled(self, x: Tensor) -> Tensor:
        """The branch of the whole image, (N, width, 1, 1).

        In a training of one image each channel has one value, which no statistics can be taken of:
        then it is normalised by the running ones, as in an evaluation.
        """
        norm = self.global_avg_pool[1]._batch_norm
        alone = norm.training and x.shape[0] == 1
        norm.training &= not alone
        try:
            return self.global_avg_pool(x)
        finally:
            norm.training |= alone


class Decoder(nn.Layer):
    """Joins the pyramid with a finer feature: -> logits (N, C, h, w), as large as that feature."""

    def __init__(self, low_channels: int, class_num: int, width: int) -> None:
        super().__init__()
        self.conv_bn_relu1 = NamedConvBN(low_channels, _LOW, 1, bias=True)
        self.conv_bn_relu2 = Separable(width + _LOW, width)
        self.conv_bn_relu3 = Separable(width, width)
        self.conv = nn.Conv2D(width, class_num, 1)

    def forward(self, pyramid: Tensor, low: Tensor, resize: Resize) -> Tensor:
        near = self.conv_bn_relu1(low)  # (N, 48, h, w)
        far = resize(pyramid, near)  # (N, width, h, w)
        joined = paddle.concat([far, near], axis=1)  # (N, width + 48, h, w)
        return self.conv(self.conv_bn_relu3(self.conv_bn_relu2(joined)))


class DeepLabV3PHead(nn.Layer):
    """The pyramid on the trunk's last feature, and the decoder with a finer one."""

    def __init__(
        self,
        low_channels: int,
        channels: int,
        class_num: int,
        ratios: Sequence[int],
        width: int,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(channels, ratios, width)
        self.decoder = Decoder(low_channels, class_num, width)

    def forward(self, low: Tensor, last: Tensor, resize: Resize) -> Tensor:
        return self.decoder(self.aspp(last), low, resize)  # (N, C, h, w)


class AuxiliaryHead(nn.Layer):
    """Logits of one of the trunk's features, which help it to learn: 3x3, dropout, 1x1."""

    def __init__(self, channels: int, class_num: int) -> None:
        super().__init__()
        self.conv_bn_relu = NamedConvBN(channels, channels // 4, 3, bias=True)
        self.dropout = nn.Dropout(0.1)
        self.conv = nn.Conv2D(channels // 4, class_num, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.dropout(self.conv_bn_relu(x)))  # (N, C, h, w)


@register("model")
class DeepLabV3P(Network):
    """DeepLabV3+.

    class_num: kinds of pixels. backbone: the trunk, with `output_stride` 8 or 16 for a finer last
    feature. aspp_ratios: dilations of the pyramid's branches, 1 for a 1x1 convolution; by default
    1, 3, 6, 9 at output stride 32, 1, 6, 12, 18 at 16 and 1, 12, 24, 36 at 8. aspp_out_channels:
    width of the pyramid and the decoder, which at 256 has most of the operations. align_corners:
    of all upsampling; true for image sizes as 769, where corners meet. low_feature: the trunk's
    feature that the decoder joins: 0 has a quarter of the image's height and width, 1 an eighth,
    which costs the decoder a quarter as much. auxiliary: features of the trunk, 0 to 3, that learn
    by a head of their own each, whose logits are the outputs `aux_0`, ... of a training (a loss
    names one with `key`).
    """

    head_layers = ("head.decoder.conv", "aux_heads")

    def __init__(
        self,
        class_num: ClassCount,
        backbone: TrunkSpec,
        aspp_ratios: list[Edge] | None = None,
        aspp_out_channels: Channels = 256,
        align_corners: bool = False,
        low_feature: NonNegativeInt = 0,
        auxiliary: list[NonNegativeInt] = (),
    ) -> None:
        super().__init__()
        channels, strides = _stages(backbone)
        ratios = _RATIOS.get(strides[-1]) if aspp_ratios is None else aspp_ratios
        if not ratios:
            raise UserError(
                "aspp_ratios: expected one or several numbers, found none; there are defaults for "
                f"the output strides 8, 16 and 32, the trunk's is {strides[-1]}"
            )
        asked = {"low_feature": [low_feature], "auxiliary": auxiliary}
        for name, places in asked.items():
            if any(place >= len(channels) for place in places):
                raise UserError(
                    f"{name}: the trunk has the features 0 to {len(channels) - 1}, found {places}"
                )
        self.class_num = class_num
        self.backbone = backbone
        near, last = channels[low_feature], channels[-1]
        self.head = DeepLabV3PHead(near, last, class_num, ratios, aspp_out_channels)
        self.low_feature = low_feature
        self.auxiliary = tuple(auxiliary)
        self.aux_heads = nn.LayerList(AuxiliaryHead(channels[i], class_num) for i in auxiliary)
        self.resize = Bilinear(align_corners)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Images (N, 3, H, W) -> logits (N, class_num, H, W).

        In training with auxiliary heads a dict: `logits`, and `aux_0`, ... of the same shape.
        """
        stages = self.backbone.forward_stages(x)
        logits = self.resize(self._coarse(stages), x)  # (N, C, H, W)
        if not (self.training and self.auxiliary):
            return logits
        aux = [head(stages[place]) for head, place in zip(self.aux_heads, self.auxiliary)]
        named = {f"aux_{i}": self.resize(logits, x) for i, logits in enumerate(aux)}
        return {"logits": logits, **named}

    def coarse(self, x: Tensor) -> list[Tensor]:
        """The logits before the last enlargement, (N, class_num, h, w), for an export.

        Raises UserError with `align_corners`, which post-processing does not know.
        """
        if self.resize.align_corners:
            raise UserError("output: coarse: expected a network with align_corners: false")
        return [self._coarse(self.backbone.forward_stages(x))]

    def _coarse(self, stages: Sequence[Tensor]) -> Tensor:
        return self.head(stages[self.low_feature], stages[-1], self.resize)  # (N, C, h, w)


def _stages(trunk: Network) -> tuple[Sequence[int], Sequence[int]]:
    """Channels and strides of a trunk's features; UserError where it has none."""
    if not trunk.channels:
        raise UserError(f"backbone: {type(trunk).__name__} is no trunk: it has no stages")
    return trunk.channels, trunk.strides
