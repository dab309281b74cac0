"""Parts that several networks share: Conv-BN-activation, squeeze-and-excitation, rounding.

The attribute names (`conv`, `bn`, `conv1`, `conv2`) are part of the official state-dict keys, so
they are fixed. Read next: backbone.py (the contract of a network), pplcnet.py (the smallest user).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, KaimingNormal
from paddle.regularizer import L2Decay

from ppcls_lite.errors import UserError

_ACTIVATIONS: dict[str, type[nn.Layer]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "swish": nn.Swish,
    "gelu": nn.GELU,
}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a scaled channel count to a multiple of `divisor`, never below 90 % of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def activation(name: str | None) -> nn.Layer:
    """The activation layer of that name; `None` is the identity."""
    return nn.Identity() if name is None else _ACTIVATIONS[name]()


class Strides:
    """Turns the strides of a network into dilations where it has reached its output stride.

    output_stride: pixels of the image that one of the last feature stands for, at most; None: the
    network's own strides. A convolution that loses its stride keeps the dilation so far, those
    after it have twice as much: the same weights give the same values, at more places
    (DeepLabv3, https://arxiv.org/abs/1706.05587, section 3.1). `total`: what is reached so far,
    a number, or (height, width) where these differ.
    """

    def __init__(self, output_stride: int | None) -> None:
        self.limit = output_stride
        self.total: int | tuple[int, int] = 1
        self._dilation = 1

    def next(self, stride: int | Sequence[int]) -> tuple[int | list[int], int]:
        """Stride and dilation of the next convolution, whose stride would be `stride`."""
        reached = [a * b for a, b in zip(_pair(self.total), _pair(stride))]
        height, width = reached
        if self.limit is not None and height != width:
            raise UserError(
                f"output_stride: expected the same strides for height and width, found {stride}; "
                "leave it out where these are reduced by different factors"
            )
        dilation = self._dilation
        if self.limit is not None and height > self.limit:
            self._dilation *= _pair(stride)[0]
            return 1, dilation
        self.total = height if height == width else (height, width)
        return stride if isinstance(stride, int) else list(stride), dilation

    def cap(self, strides: Sequence[int]) -> tuple[int, ...]:
        """What remains of the strides of stages, which are powers of two."""
        return tuple(min(stride, self.limit or stride) for stride in strides)


def _pair(stride: int | Sequence[int]) -> Sequence[int]:
    return (stride, stride) if isinstance(stride, int) else stride


def batch_norm(channels: int, lr_mult: float = 1.0, decay: bool = True) -> nn.BatchNorm2D:
    """Batch normalisation; `decay=False` keeps its scale and shift out of weight decay."""
    attr = {"learning_rate": lr_mult, "regularizer": None if decay else L2Decay(0.0)}
    return nn.BatchNorm2D(channels, weight_attr=ParamAttr(**attr), bias_attr=ParamAttr(**attr))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int | list[int] = 1,
    groups: int = 1,
    lr_mult: float = 1.0,
    kaiming: bool = False,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2D:
    """A convolution, padded so that stride 1 keeps the size, an even kernel below and on the right;
    a `bias` begins at 0.

    `kaiming` draws from N(0, 2 / fan_in) with the fan-in of one group; otherwise paddle's own
    default, N(0, 2 / (k * k * in_channels)), as the official networks that name no initialiser.
    """
    size = (in_channels, out_channels, kernel_size)
    attr = ParamAttr(initializer=KaimingNormal() if kaiming else None, learning_rate=lr_mult)
    padding = (kernel_size - 1) // 2 * dilation if kernel_size % 2 else "SAME"
    steps = {"stride": stride, "padding": padding, "groups": groups}
    more = {"dilation": dilation, "bias_attr": ParamAttr(learning_rate=lr_mult) if bias else False}
    return nn.Conv2D(*size, **steps, **more, weight_attr=attr)


class InOrder(nn.Layer):
    """Layers one after another, as in `nn.Sequential`, but with names.

    (N, C, H, W) -> what the last of `steps` gives, with a `shortcut` the input added to it. The CPU
    kernels do not store what lies between the steps.
    """

    shortcut = False

    def steps(self) -> Sequence[nn.Layer]:
        """The layers, each of which alone reads the output of the one before it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.steps():
            y = layer(y)
        return x + y if self.shortcut else y


def present(*layers: nn.Layer | None) -> list[nn.Layer]:
    """Those of the layers that there are."""
    return [layer for layer in layers if layer is not None]


class ConvNorms(nn.Layer):
    """Convolutions one after another, each normalised and activated, under names of any kind.

    (N, C, H, W) -> what the last of `joined` gives. The CPU kernels compute each in one call.
    """

    def joined(self) -> Sequence[tuple[nn.Conv2D, nn.BatchNorm2D, nn.Layer]]:
        """The convolutions, each with its normalisation and its activation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, act in self.joined():
            x = act(norm(conv(x)))
        return x


class ConvBN(ConvNorms):
    """Convolution, batch normalisation, activation.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | list[int] = 1,
        groups: int = 1,
        act: str | None = "relu",
        lr_mult: float = 1.0,
        kaiming: bool = False,
        bn_decay: bool = True,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        size = (in_channels, out_channels, kernel_size)
        self.conv = conv2d(*size, stride, groups, lr_mult, kaiming, dilation, bias)
        self.bn = batch_norm(out_channels, lr_mult, bn_decay)
        self.act = activation(act)

    def joined(self) -> Sequence[tuple[nn.Conv2D, nn.BatchNorm2D, nn.Layer]]:
        return [(self.conv, self.bn, self.act)]


class NamedConvBN(ConvNorms):
    """`ConvBN` under the key names `_conv` and `_batch_norm` of the older official networks."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "relu",
        kaiming: bool = False,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        size = (in_channels, out_channels, kernel_size)
        self._conv = conv2d(*size, stride, groups, 1.0, kaiming, dilation, bias)
        self._batch_norm = batch_norm(out_channels)
        self._act = activation(act)

    def joined(self) -> Sequence[tuple[nn.Conv2D, nn.BatchNorm2D, nn.Layer]]:
        return [(self._conv, self._batch_norm, self._act)]


class LearnableAffine(nn.Layer):
    """scale * x + bias with one learned number each, which learn at `lr_mult` times the rate."""

    def __init__(self, lr_mult: float = 1.0) -> None:
        super().__init__()
        for name, start in (("scale", 1.0), ("bias", 0.0)):
            attr = ParamAttr(initializer=Constant(start), learning_rate=lr_mult)
            self.add_parameter(name, self.create_parameter([1], attr=attr))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


def added(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum: of two by the operator that engines compute with the convolution before it."""
    return paddle.add_n(list(tensors)) if len(tensors) > 2 else sum(tensors[1:], tensors[0])


class Summed(nn.Layer):
    """Branches of one input, their sum, and layers behind it.

    (N, C, H, W) -> what the last of `finish` makes of the sum. The CPU kernels form branches that
    end with a normalisation where they are added, and compute activations and learned numbers
    behind the sum with it.
    """

    def branches(self) -> Sequence[Sequence[nn.Layer]]:
        """The layers of each branch, one after another; none: the input itself."""
        raise NotImplementedError

    def finish(self) -> Sequence[nn.Layer]:
        """The layers behind the sum, each of which alone reads the output of the one before it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        ends = []
        for layers in self.branches():
            ends.append(x)
            for layer in layers:
                ends[-1] = layer(ends[-1])
        y = added(ends)
        for layer in self.finish():
            y = layer(y)
        return y


class DropPath(nn.Layer):
    """Leaves out a branch for single images in training (https://arxiv.org/abs/1603.09382).

    (N, ...) -> the same shape: zero with the probability `rate`, else 1 / (1 - rate) times x.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)) >= self.rate
        return x * kept.astype(x.dtype) / (1 - self.rate)


def drop_path_rates(last: float, count: int) -> list[float]:
    """A rate for each of `count` blocks, which grows from 0 to `last`."""
    return [last * i / max(1, count - 1) for i in range(count)]


class SqueezeExcitation(nn.Layer):
    """Channel attention (https://arxiv.org/abs/1709.01507) with 1x1 convolutions, ratio 1/4.

    (N, C, H, W) -> the same shape, each channel scaled by `gate` of a pooled two-layer network.
    """

    def __init__(
        self,
        channels: int,
        gate: Callable[[Tensor], Tensor] = F.hardsigmoid,
        lr_mult: float = 1.0,
        squeeze: int | None = None,
    ) -> None:
        """squeeze: the width inside, a quarter if left out."""
        super().__init__()
        attr = ParamAttr(learning_rate=lr_mult)
        squeeze = squeeze or channels // 4
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.conv1 = nn.Conv2D(channels, squeeze, 1, weight_attr=attr, bias_attr=attr)
        self.conv2 = nn.Conv2D(squeeze, channels, 1, weight_attr=attr, bias_attr=attr)
        self._gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return paddle.multiply(x, self.gates(self.avg_pool(x)))

    def gates(self, means: Tensor) -> Tensor:
        """(N, C, 1, 1): the factors of the channels, from their means."""
        return self._gate(self.conv2(F.relu(self.conv1(means))))
