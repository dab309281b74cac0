"""PP-LCNetV3: PP-LCNet whose convolutions train as several branches and ship as one.

The trunk of PP-OCRv4 and v5 (PaddleOCR, document PP-OCRv4). Every convolution but the stem is a sum
of four equal ones, a 1x1 and an identity, each with its batch normalisation, followed by a learned
factor and shift; `reparameterize` folds the sum into one convolution. Three forms: `cls` with
PP-LCNet's head, `det` with four projected features, `rec` for lines of text.
Read next: pplcnet.py (the first version), reparameterize.py (the folding).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

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
    Stride,
    WidthScale,
)
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import ExpandHeadBackbone
from ppcls_lite.models.layers import (
    ConvBN,
    InOrder,
    LearnableAffine,
    SqueezeExcitation,
    Strides,
    Summed,
    batch_norm,
    make_divisible,
    present,
)
from ppcls_lite.models.reparameterize import Folded, fold, identity_kernel, like, padded

_BRANCHES = 4  # equal convolutions that are summed
_AFFINE_LR = 0.1  # factor on the learning rate of the scalars
_STEM_CHANNELS = 16  # at scale 1


class _Row(NamedTuple):
    """One block at scale 1."""

    kernel_size: int
    channels: int
    use_se: bool = False


_STAGES = {
    "blocks2": [_Row(3, 32)],
    "blocks3": [_Row(3, 64)] * 2,
    "blocks4": [_Row(3, 128)] * 2,
    "blocks5": [_Row(3, 256), *[_Row(5, 256)] * 4],
    "blocks6": [*[_Row(5, 512, use_se=True)] * 2, *[_Row(5, 512)] * 2],
}
_LINE_STRIDES = {  # of the blocks in the form for lines of text
    "blocks2": [1],
    "blocks3": [1, 1],
    "blocks4": [[2, 1], 1],
    "blocks5": [[1, 2], 1, 1, 1, 1],
    "blocks6": [[2, 1], 1, [2, 1], 1],
}
_DET_CHANNELS = (16, 24, 56, 480)  # at scale 1


class AffineHardswish(InOrder):
    """Hard-swish, then a learned factor and shift."""

    def __init__(self, lr_mult: float) -> None:
        super().__init__()
        self.hardswish = nn.Hardswish()
        self.lab = LearnableAffine(lr_mult)

    def steps(self) -> list[nn.Layer]:
        return [self.hardswish, self.lab]


class BranchedConv(Summed):
    """Convolution in branches, learned factor and shift, activation unless the stride is 2.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride). Stride 2 alone is linear;
    a stride that differs between height and width is not. applied: what the stride has become, and
    the dilation (see `Strides`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | list[int],
        groups: int,
        lr_mult: float,
        applied: tuple[int | list[int], int] = (1, 1),
    ) -> None:
        super().__init__()

        def branch(size: int) -> ConvBN:
            more = {"act": None, "lr_mult": lr_mult, "kaiming": True, "bn_decay": False}
            step, dilation = applied
            return ConvBN(in_channels, out_channels, size, step, groups, **more, dilation=dilation)

        keeps_shape = stride == 1 and in_channels == out_channels
        self.identity = batch_norm(in_channels, lr_mult) if keeps_shape else None
        self.conv_kxk = nn.LayerList([branch(kernel_size) for _ in range(_BRANCHES)])
        self.conv_1x1 = branch(1) if kernel_size > 1 else None
        self.lab = LearnableAffine(lr_mult * _AFFINE_LR)
        self.act = AffineHardswish(lr_mult * _AFFINE_LR)
        self._linear = stride == 2
        if self._linear:  # the official weights have these scalars, which nothing uses
            for scalar in self.act.parameters():
                scalar.stop_gradient = True
        self.reparam_conv: nn.Conv2D | None = None

    def branches(self) -> list[list[nn.Layer]]:
        if self.reparam_conv is not None:
            return [[self.reparam_conv]]
        return [[branch] for branch in (*self.conv_kxk, *present(self.conv_1x1, self.identity))]

    def finish(self) -> list[nn.Layer]:
        return [self.lab] if self._linear else [self.lab, self.act]

    def merge(self) -> bool:
        """Fold all branches into `reparam_conv` and drop them."""
        if self.reparam_conv is not None:
            return False
        conv = self.conv_kxk[0].conv
        size = conv.weight.shape[-1]
        folded = [self._folded(b, size) for b in (*self.conv_kxk, self.conv_1x1) if b is not None]
        if self.identity is not None:
            kernel = identity_kernel(conv._out_channels, conv._groups)
            folded.append(fold(padded(kernel, size), self.identity))
        kernels, biases = zip(*folded)
        made = like(conv, sum(kernels[1:], kernels[0]), sum(biases[1:], biases[0]))
        del self.conv_kxk, self.conv_1x1, self.identity
        self.reparam_conv = made
        return True

    @staticmethod
    def _folded(branch: ConvBN, size: int) -> Folded:
        return fold(padded(branch.conv.weight, size), branch.bn)


class DepthwiseSeparable(nn.Layer):
    """Branched depthwise convolution, optional channel attention, branched pointwise one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        row: _Row,
        stride: int | list[int],
        lr: float,
        applied: tuple[int | list[int], int],
    ) -> None:
        super().__init__()
        size = (in_channels, in_channels, row.kernel_size, stride)
        self.dw_conv = BranchedConv(*size, groups=in_channels, lr_mult=lr, applied=applied)
        self.se = SqueezeExcitation(in_channels, lr_mult=lr) if row.use_se else None
        self.pw_conv = BranchedConv(in_channels, out_channels, 1, 1, groups=1, lr_mult=lr)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dw_conv(x)  # (N, in_channels, H / stride, W / stride)
        if self.se is not None:
            x = self.se(x)
        return self.pw_conv(x)  # (N, out_channels, H / stride, W / stride)


@register("model")
class PPLCNetV3(ExpandHeadBackbone):
    """PP-LCNetV3 at any width.

    scale: multiplies all channel counts (rounded to multiples of 16). form: `cls` (a classifier;
    without classes its four stages), `det` (the stages through 1x1 convolutions to few channels,
    as PP-OCR's detector takes them), `rec` (strides for lines of text; the last feature pooled to
    one row); the last two have no classes. class_num: classes; 0 builds the trunk alone.
    dropout_prob, class_expand, use_last_conv: the head, as in PPLCNet. lr_mult_list: learning-rate
    factors of stem and blocks2 ... blocks6. stride_list: strides of stem and blocks2 ... blocks6
    of `cls` and `det`. return_patterns, return_stages: see `Backbone.tap`. output_stride: see
    `Strides`.
    """

    stage_names = tuple(_STAGES)
    head_layers = ("last_conv", "act", "fc")

    def __init__(
        self,
        scale: WidthScale = 1.0,
        form: Literal["cls", "det", "rec"] = "cls",
        class_num: ClassCount = 1000,
        dropout_prob: Probability | None = 0.2,
        class_expand: Channels = 1280,
        use_last_conv: bool = True,
        lr_mult_list: list[NonNegativeFloat] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        stride_list: list[Stride | list[Stride]] = (2, 1, 2, 2, 2, 2),
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
        output_stride: Literal[8, 16, 32] | None = None,
    ) -> None:
        super().__init__(class_num)
        if class_num and form != "cls":
            raise UserError(f"PPLCNetV3: form {form} has no classifier; set class_num to 0")
        for key, values in (("lr_mult_list", lr_mult_list), ("stride_list", stride_list)):
            if len(values) != 6:
                raise UserError(
                    f"PPLCNetV3: {key} needs 6 entries (stem, blocks2 ... blocks6), "
                    f"got {list(values)}"
                )
        self._form = form
        width = make_divisible(_STEM_CHANNELS * scale, 16)
        stem = {"act": None, "lr_mult": lr_mult_list[0], "kaiming": True, "bn_decay": False}
        self.conv1 = ConvBN(in_channels, width, 3, stride_list[0], **stem)
        self.act1 = None
        if stride_list[0] == 1:  # otherwise linear, as all layers of stride 2
            self.act1 = AffineHardswish(lr_mult_list[0] * _AFFINE_LR)
        steps, channels, reached = Strides(output_stride), [], []
        steps.next(stride_list[0])
        for i, (name, rows) in enumerate(_STAGES.items(), start=1):
            strides = [stride_list[i], *[1] * (len(rows) - 1)]
            strides = _LINE_STRIDES[name] if form == "rec" else strides
            blocks = []
            for row, stride in zip(rows, strides):
                narrow, width = width, make_divisible(row.channels * scale, 16)
                options = (row, stride, lr_mult_list[i], steps.next(stride))
                blocks.append(DepthwiseSeparable(narrow, width, *options))
            self.add_sublayer(name, nn.Sequential(*blocks))
            channels.append(width)
            reached.append(steps.total)
        self.channels, self.strides = tuple(channels[1:]), tuple(reached[1:])
        if form == "det":
            outputs = [int(scale * number) for number in _DET_CHANNELS]
            pairs = zip(self.channels, outputs)
            self.layer_list = nn.LayerList([nn.Conv2D(a, b, 1) for a, b in pairs])
            self.channels = tuple(outputs)
        if form == "rec":
            height, width_stride = self.strides[-1]
            self.strides = (*self.strides[:-1], (height * 3, width_stride * 2))
        self._build_head(channels[-1], class_expand, "hardswish", dropout_prob, use_last_conv)
        if class_num and use_last_conv:
            self.act = AffineHardswish(_AFFINE_LR)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self.conv1(x)
        x = self.blocks2(x if self.act1 is None else self.act1(x))
        stages = (self.blocks3, self.blocks4, self.blocks5, self.blocks6)
        features = self.outputs_at(range(4), stages, x)
        if self._form == "det":
            return [layer(feature) for layer, feature in zip(self.layer_list, features)]
        if self._form == "rec":
            features[-1] = pool_line(features[-1], self.training)
        return features

    def own_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return of_ocr(super().own_state(state), self.state_dict())

    def reparameterize(self) -> int:
        layers = [layer for layer in self.sublayers() if isinstance(layer, BranchedConv)]
        with paddle.no_grad():
            return sum(layer.merge() for layer in layers)


def pool_line(feature: Tensor, training: bool) -> Tensor:
    """A line of text (N, C, H, W), H of 3 to 5, pooled to one row: (N, C, 1, W / 2).

    In training, where widths are resized to one, 40 columns whatever the size.
    """
    if training:
        return F.adaptive_avg_pool2d(feature, [1, 40])
    return F.avg_pool2d(feature, [3, 2])


def of_ocr(state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The trunk's entries of a file of PP-OCR; other files as they are.

    Those have `backbone.` before the trunk's keys, neck and head beside it, and, in older ones,
    merged convolutions beside their branches. The projections of a detector are left out where the
    trunk has none.
    """
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state) and not any(key in state for key in own):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    branched = any(".conv_kxk." in key or ".rep_dw.conv." in key for key in state)
    return {
        key: value
        for key, value in state.items()
        if key in own
        or not (key.startswith("layer_list.") or (branched and ".reparam_conv." in key))
    }
