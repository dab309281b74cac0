"""PP-LCNetV4: a token mixer (depthwise) and a channel mixer (two pointwise convolutions) a block.

The trunk of PP-OCRv6 (PaddleOCR, document PP-OCRv6), in three sizes and two forms: `det` for a
detector, `rec` for lines of text. `cls` is the trunk of `det` with PP-LCNet's head. Depthwise
convolutions train as a sum with a 1x1 one and an identity. Read next: pplcnet_v3.py,
reparameterize.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import paddle
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, ClassCount, NonNegativeInt, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import ExpandHeadBackbone
from ppcls_lite.models.branch_stem import BranchStem
from ppcls_lite.models.layers import ConvBN, SqueezeExcitation, Strides, batch_norm, conv2d
from ppcls_lite.models.pplcnet_v3 import of_ocr, pool_line
from ppcls_lite.models.reparameterize import fold, like, merged, padded

_EXPANSION = 2  # of the channel mixer


class _Row(NamedTuple):
    """One block."""

    channels: int
    use_se: bool = False
    stride: int | tuple[int, int] = 1


class _Network(NamedTuple):
    """The stem's widths, and the blocks of the stages."""

    stem: tuple[int, int]
    stages: dict[str, list[_Row]]


def _se_and_plain(channels: int, pairs: int = 1) -> list[_Row]:
    """Blocks of which every second one, from the first on, has channel attention."""
    return [_Row(channels, use_se=i % 2 == 0) for i in range(2 * pairs)]


def _det(stem: tuple[int, int], widths: tuple[int, int, int, int]) -> _Network:
    a, b, c, d = widths
    stages = {
        "blocks_s1": _se_and_plain(a),
        "blocks_s2": [_Row(b, stride=2), *_se_and_plain(b)],
        "blocks_s3": [_Row(c, stride=2), *_se_and_plain(c, 2)],
        "blocks_s4": [_Row(d, stride=2), *_se_and_plain(d)],
    }
    return _Network(stem, stages)


_HALVE = (2, 1)  # the height alone
_DET = {
    "tiny": _det((16, 32), (32, 48, 64, 160)),
    "small": _det((24, 48), (48, 96, 192, 384)),
    "medium": _det((64, 128), (128, 256, 512, 896)),
}
_REC = {
    "tiny": _Network(
        (24, 48),
        {
            "blocks2": [_Row(48, use_se=True)],
            "blocks3": [_Row(48)],
            "blocks4": [_Row(96, stride=_HALVE), *_se_and_plain(96)],
            "blocks5": [_Row(160, stride=_HALVE), *_se_and_plain(160), _Row(160)],
        },
    ),
    "small": _Network(
        (48, 96),
        {
            "blocks2": [_Row(96, use_se=True)],
            "blocks3": [_Row(96), _Row(96)],
            "blocks4": [_Row(192, stride=_HALVE), *_se_and_plain(192, 3)],
            "blocks5": [_Row(384, stride=_HALVE), *_se_and_plain(384)],
        },
    ),
    "medium": _Network(
        (64, 128),
        {
            "blocks2": [_Row(128, use_se=True)],
            "blocks3": [_Row(256), _Row(256), _Row(256, use_se=True)],
            "blocks4": [_Row(512, stride=_HALVE), *_se_and_plain(512, 3)],
            "blocks5": [_Row(768, stride=_HALVE), *_se_and_plain(768)],
        },
    ),
}


class BranchedDepthwise(nn.Layer):
    """Normalised sum of a normalised 3x3 depthwise convolution, a 1x1 one and the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, channels, 3, groups=channels, act=None, dilation=dilation)
        self.conv1 = conv2d(channels, channels, 1, groups=channels)
        self.bn = batch_norm(channels)
        self.reparam_conv: nn.Conv2D | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.reparam_conv is not None:
            return self.reparam_conv(x)
        return self.bn(self.conv(x) + self.conv1(x) + x)

    def merge(self) -> bool:
        """Fold everything into `reparam_conv`."""
        if self.reparam_conv is not None:
            return False
        kernel, bias = fold(self.conv.conv.weight, self.conv.bn)
        kernel = kernel + padded(self.conv1.weight + 1, 3)  # + 1: the input itself
        made = like(self.conv.conv, *fold(kernel, self.bn, bias))
        del self.conv, self.conv1, self.bn
        self.reparam_conv = made
        return True


class TokenMixer(nn.Layer):
    """Depthwise 3x3, in branches where the shape stays, and optional channel attention."""

    def __init__(
        self, channels: int, use_se: bool, branched: bool, stride: int | list[int], dilation: int
    ) -> None:
        super().__init__()
        if branched:
            self.rep_dw = BranchedDepthwise(channels, dilation)
        else:
            more = {"groups": channels, "act": None, "dilation": dilation}
            self.dw_conv = ConvBN(channels, channels, 3, stride, **more)
        self.se = SqueezeExcitation(channels) if use_se else None
        self._branched = branched

    def forward(self, x: Tensor) -> Tensor:
        x = self.rep_dw(x) if self._branched else self.dw_conv(x)
        return x if self.se is None else self.se(x)


class ChannelMixer(nn.Layer):
    """Pointwise expansion, GELU, pointwise compression."""

    def __init__(self, in_channels: int, out_channels: int, starts_at_zero: bool) -> None:
        super().__init__()
        hidden = in_channels * _EXPANSION
        self.expand = ConvBN(in_channels, hidden, 1, act=None)
        self.act = nn.GELU()
        self.compress = ConvBN(hidden, out_channels, 1, act=None)
        if starts_at_zero:  # a residual block begins as its token mixer
            self.compress.bn.weight.set_value(paddle.zeros([out_channels]))

    def forward(self, x: Tensor) -> Tensor:
        return self.compress(self.act(self.expand(x)))


class Block(nn.Layer):
    """Token mixer, then channel mixer with a shortcut around it where the shape stays.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, row: _Row, steps: Strides) -> None:
        super().__init__()
        self._shortcut = row.stride == 1 and in_channels == row.channels
        applied = steps.next(row.stride)
        self.token_mixer = TokenMixer(in_channels, row.use_se, self._shortcut, *applied)
        self.channel_mixer = ChannelMixer(in_channels, row.channels, self._shortcut)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        y = self.channel_mixer(x)
        return x + y if self._shortcut else y


def _stem_layer(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> ConvBN:
    return ConvBN(in_channels, out_channels, kernel_size, stride, bn_decay=False)


@register("model")
class PPLCNetV4(ExpandHeadBackbone):
    """PP-LCNetV4.

    size: which of the networks. form: `cls` (a classifier; without classes its four stages), `det`
    (the same four stages), `rec` (strides for lines of text; the last feature pooled to one row);
    the last two have no classes. class_num: classes; 0 builds the trunk alone. dropout_prob,
    class_expand, use_last_conv: the head, as in PPLCNet, with ReLU. return_patterns,
    return_stages: see `Backbone.tap`. output_stride: see `Strides`.
    """

    def __init__(
        self,
        size: Literal["tiny", "small", "medium"] = "small",
        form: Literal["cls", "det", "rec"] = "cls",
        class_num: ClassCount = 1000,
        dropout_prob: Probability | None = 0.2,
        class_expand: Channels = 1280,
        use_last_conv: bool = True,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
        output_stride: Literal[8, 16, 32] | None = None,
    ) -> None:
        super().__init__(class_num)
        if class_num and form != "cls":
            raise UserError(f"PPLCNetV4: form {form} has no classifier; set class_num to 0")
        self._form = form
        network = (_REC if form == "rec" else _DET)[size]
        middle, channels = network.stem
        if form == "rec" and size == "tiny":
            self.conv1 = nn.Sequential(
                ConvBN(in_channels, middle, 3, 2, act=None),
                nn.GELU(),
                ConvBN(middle, channels, 3, 2, act=None),
            )
        else:
            stem = BranchStem(in_channels, middle, channels, _stem_layer)
            self.add_sublayer("conv1" if form == "rec" else "stem", stem)
        self.stage_names = tuple(network.stages)
        steps, reached = Strides(output_stride), []
        steps.next(4)
        for name, rows in network.stages.items():
            blocks = []
            for row in rows:
                blocks.append(Block(channels, row, steps))
                channels = row.channels
            self.add_sublayer(name, nn.Sequential(*blocks))
            reached.append(steps.total)
        self.channels = tuple(rows[-1].channels for rows in network.stages.values())
        self.strides = tuple(reached)
        if form == "rec":
            height, width = self.strides[-1]
            self.strides = (*self.strides[:-1], (height * 3, width * 2))
        self._build_head(channels, class_expand, "relu", dropout_prob, use_last_conv)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self.conv1(x) if self._form == "rec" else self.stem(x)  # (N, C, H / 4, W / 4)
        stages = [getattr(self, name) for name in self.stage_names]
        features = self.outputs_at(range(4), stages, x)
        if self._form == "rec":
            features[-1] = pool_line(features[-1], self.training)
        return features

    def own_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return of_ocr(super().own_state(state), self.state_dict())

    def reparameterize(self) -> int:
        with paddle.no_grad():
            layers = list(self.sublayers())
            count = sum(layer.merge() for layer in layers if isinstance(layer, BranchedDepthwise))
            for layer in layers:
                if isinstance(layer, (ChannelMixer, TokenMixer)):
                    for name, part in list(layer.named_children()):
                        if isinstance(part, ConvBN):
                            setattr(layer, name, merged(part))
                elif isinstance(layer, BranchStem):
                    for part in layer.children():
                        if isinstance(part, ConvBN) and not isinstance(part.bn, nn.Identity):
                            part.conv, part.bn = merged(part), nn.Identity()
        return count
