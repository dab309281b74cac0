"""Layers with the kernels: the classes that `convert` gives to the layers of a network.

A layer keeps its parameters, names and attributes; only its `forward` in training becomes another,
a convolution's in evaluation too: there it is what takes the time.
Everywhere else (static graphs and export, other types or devices, hooks on a part that
is computed together with another, a layer changed after `convert`) the layer's own forward runs.
Copies of a network have the kernels, too; one that was pickled comes back as the stock one.
Read before: swap.py. Read next: ops.py, deferred.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Container, Iterable, Sequence
from operator import attrgetter
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.kernels.attention import attended
from ppcls_lite.kernels.deferred import Deferred, Norm, conv_norm, raw_of, values
from ppcls_lite.kernels.ops import dense_conv, depthwise_conv, linear, norm_act
from ppcls_lite.kernels.pixels import enlarged, pixel_entropy
from ppcls_lite.kernels.pool import Pooling, pooled, pooling_of
from ppcls_lite.kernels.shuffle import in_turns, with_half
from ppcls_lite.kernels.summed import Finish, summed
from ppcls_lite.kernels.tensors import Window, are_plain
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import (
    ConvNorms,
    InOrder,
    LearnableAffine,
    SqueezeExcitation,
    Summed,
)
from ppcls_lite.models.shuffled import Shuffled
from ppcls_lite.models.upsample import Bilinear
from ppcls_lite.ops.entropy import PixelEntropy

_NAMES = {nn.Identity: None, nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish"}
_NOTHING = nn.Identity()  # the activation where there is none
geometry_of = attrgetter(  # what a convolution reads when it runs
    *("_stride", "_updated_padding", "_padding_algorithm", "_padding_mode", "_dilation"),
    *("_groups", "_data_format"),
)


class Handle:
    """What `convert` gives to a layer: the library, the class it had, what it was like.

    Copies of the network share it: a library can be neither copied nor pickled.
    """

    def __init__(
        self,
        library: ctypes.CDLL | None,
        stock: type,
        native: type,
        window: Window | None = None,
        geometry: tuple | None = None,
    ) -> None:
        self.library, self.stock, self.native = library, stock, native
        self.window, self.geometry = window, geometry

    def __deepcopy__(self, memo: dict) -> Handle:
        return self

    def __reduce__(self) -> tuple:
        return Handle, (None, self.stock, self.stock)


class Native(nn.Layer):
    """A layer that `convert` has changed."""

    _kernels: Handle

    def deferred(self, x: Tensor | Deferred) -> Tensor | Deferred:
        """The same as calling the layer, for one that reads the result right away."""
        return self(values(x))

    def __reduce_ex__(self, protocol: object) -> tuple:
        return _bare, (self._kernels,), {k: v for k, v in vars(self).items() if k != "_kernels"}


def _bare(handle: Handle) -> nn.Layer:
    """A layer without its attributes: a copy with the kernels, or a stock one from a file."""
    layer = handle.native.__new__(handle.native)
    if handle.library is not None:
        vars(layer)["_kernels"] = handle
    return layer


class NativeConv(Native, nn.Conv2D):
    """A convolution, by the `kernel` of its kind."""

    kernel: Callable[[Tensor, Tensor, Window, ctypes.CDLL], Tensor]
    may_round = False  # whether its products are in bf16 if the library's are

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if not _takes_kernel(self, x):
            return nn.Conv2D.forward(self, x)
        y = self.kernel(x, self.weight, self._kernels.window, self._kernels.library)
        return y if self.bias is None else y + self.bias.reshape([1, -1, 1, 1])


class NativeDepthwise(NativeConv):
    """A depthwise convolution."""

    kernel = staticmethod(depthwise_conv)


class NativeDense(NativeConv):
    """A convolution over all channels."""

    kernel = staticmethod(dense_conv)
    may_round = True


class NativeLinear(Native, nn.Linear):
    """The classifier."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.ndim == 2 and are_plain(x):
            y = linear(x, self.weight, self._kernels.library)
            return y if self.bias is None else y + self.bias
        return nn.Linear.forward(self, x)


class NativeConvNorms(ConvNorms, Native):
    """Convolutions, each with its batch normalisation and activation."""

    def forward(self, x: Tensor) -> Tensor:
        return values(self._all(x))

    def deferred(self, x: Tensor | Deferred) -> Tensor | Deferred:
        own = type(self).forward is NativeConvNorms.forward and _is_itself(self)
        return self._all(x) if own else self(values(x))

    def _all(self, x: Tensor | Deferred) -> Tensor | Deferred:
        for parts in self.joined():
            x = _conv_norm_act(self, x, *parts)
        return x


class NativeInOrder(InOrder, Native):
    """Layers one after another, without what lies between them where both sides allow that."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return InOrder.forward(self, x)
        y = values(_run(self.steps(), x))
        return x + y if self.shortcut else y

    def deferred(self, x: Tensor | Deferred) -> Tensor | Deferred:
        return _run(self.steps(), x) if self.training and _is_order(self) else self(values(x))


class NativeBackbone(Backbone, Native):
    """The same for the stages of a network, whose outputs nobody may ask for."""

    def outputs_at(
        self, ends: Container[int], layers: Iterable[nn.Layer], x: Tensor
    ) -> Sequence[Tensor]:
        if not self.training:
            return Backbone.outputs_at(self, ends, layers, x)
        outputs: list[Tensor | Deferred] = []
        for i, layer in enumerate(layers):
            x = _run((layer,), x)
            if i in ends:
                outputs.append(x)
        return _Outputs(outputs)


class _Outputs(Sequence):
    """Outputs of stages; what is deferred becomes a tensor when it is asked for."""

    def __init__(self, found: list[Tensor | Deferred]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, at: int | slice) -> Tensor | _Outputs:
        if isinstance(at, slice):
            return _Outputs(self._found[at])
        self._found[at] = values(self._found[at])
        return self._found[at]

    def __setitem__(self, at: int, output: Tensor) -> None:
        self._found[at] = output


class NativeSequential(nn.Sequential, Native):
    """The same for Paddle's own; a convolution may be followed by its normalisation."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        return values(self._all(x)) if self.training else nn.Sequential.forward(self, x)

    def deferred(self, x: Tensor | Deferred) -> Tensor | Deferred:
        return self._all(x) if _is_itself(self) and self.training else self(values(x))

    @paddle.jit.not_to_static
    def _all(self, x: Tensor | Deferred) -> Tensor | Deferred:
        layers = list(self._sub_layers.values())
        while layers:
            pair = layers[:2]
            if isinstance(pair[0], NativeConv) and type(pair[-1]) is nn.BatchNorm2D:
                conv, norm, *rest = layers
                known = bool(rest) and type(rest[0]) in _NAMES
                x = _conv_norm_act(self, x, conv, norm, rest[0] if known else _NOTHING)
                layers = rest[known:]
            else:
                x, layers = _run(layers[:1], x), layers[1:]
        return x


class NativeAttention(Native, SqueezeExcitation):
    """Channel attention, whose input need not be stored."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if self._takes_kernel(x):
            return attended(x, self.gates, self._kernels.library)
        return SqueezeExcitation.forward(self, x)

    def deferred(self, x: Tensor | Deferred) -> Tensor | Deferred:
        if isinstance(x, Deferred) and _is_itself(self) and self._takes_kernel(x.raw):
            return attended(x, self.gates, self._kernels.library)
        return self(values(x))

    def _takes_kernel(self, x: Tensor) -> bool:
        known = self.training and x.ndim == 4 and 0 not in x.shape and are_plain(x)
        return known and type(self.avg_pool) is nn.AdaptiveAvgPool2D and _is_itself(self.avg_pool)


class NativePool(Native):
    """A pooling, whose input need not be stored."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        found = self._pooled(x)
        return self._kernels.stock.forward(self, x) if found is None else found

    def deferred(self, x: Tensor | Deferred) -> Tensor | Deferred:
        found = self._pooled(x) if _is_itself(self) else None
        return self(values(x)) if found is None else found

    def _pooled(self, x: Tensor | Deferred) -> Tensor | None:
        pooling = self._pooling() if self.training else None
        return None if pooling is None else pooled(x, pooling, self._kernels.library)


class NativeMaxPool(NativePool, nn.MaxPool2D):
    """The largest values."""

    def _pooling(self) -> Pooling | None:
        return None if self.return_mask else pooling_of(self, average=False)


class NativeAvgPool(NativePool, nn.AvgPool2D):
    """Means, of what is inside the plane."""

    def _pooling(self) -> Pooling | None:
        common = self.exclusive and self.divisor is None
        return pooling_of(self, average=True) if common else None


class NativeSummed(Summed, Native):
    """Branches, formed where they are added, and what is behind the sum with it."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        branches = self.branches()
        if not self.training or len(branches) < 2:
            return Summed.forward(self, x)
        finish, rest = _finish(self.finish())
        y = summed([_run(layers, x) for layers in branches], self._kernels.library, finish)
        for layer in rest:
            y = layer(y)
        return y


class NativeShuffled(Shuffled, Native):
    """Branches whose channels take turns, formed where they are written."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return Shuffled.forward(self, x)
        (first, second), library = self.branches(), self._kernels.library
        if not first:
            return with_half(x, lambda half: _run(second, half), library)
        return in_turns(_run(first, x), _run(second, x), library)


class NativeBilinear(Native, Bilinear):
    """Enlarging, whose gradient takes Paddle's operator many times as long."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        found = None
        if self.training and not x.stop_gradient:
            found = enlarged(x, like.shape[2:], self.align_corners, self._kernels.library)
        return Bilinear.forward(self, x, like) if found is None else found


class NativeEntropy(Native, PixelEntropy):
    """Cross entropy of pixels, which takes Paddle's operator a fifth of a segmentation's step."""

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        found = None
        if self.training and not logits.stop_gradient:
            found = pixel_entropy(logits, classes, self._kernels.library)
        return PixelEntropy.forward(self, logits, classes) if found is None else found


def _takes_kernel(conv: NativeConv, x: Tensor) -> bool:
    # what is judged are the float32 weights, however their gradients were computed
    if not conv.training and conv.may_round and conv._kernels.library.multiplies_bf16():
        return False
    return are_plain(x) and geometry_of(conv) == conv._kernels.geometry


@paddle.jit.not_to_static
def _conv_norm_act(
    layer: Native, x: Tensor | Deferred, conv: nn.Conv2D, norm: nn.BatchNorm2D, act: nn.Layer
) -> Tensor | Deferred:
    """Their outputs one after another; a bias that normalisation takes away again is not added."""
    read = raw_of(x)
    native = norm.training and are_plain(read) and _is_known(norm)
    if native and _is_itself(conv):
        if isinstance(conv, NativeConv) and _takes_kernel(conv, read):
            fused, how = _norm_of(norm, act)
            depthwise = isinstance(conv, NativeDepthwise)
            own = conv._kernels
            z = conv_norm(x, conv.weight, own.window, depthwise, how, own.library, conv.bias)
            return z if fused else act(values(z))
        if conv.bias is not None and type(conv) is nn.Conv2D and conv._padding_mode == "zeros":
            where = conv._stride, conv._updated_padding, conv._dilation, conv._groups
            y = F.conv2d(values(x), conv.weight, None, *where, conv._data_format)
            return _norm_act(layer, y, norm, act, conv.bias)
    y = conv(values(x))
    return _norm_act(layer, y, norm, act) if native and are_plain(y) else act(norm(y))


def _finish(layers: Iterable[nn.Layer]) -> tuple[Finish, list[nn.Layer]]:
    """What is computed with a sum, and the layers that are left."""
    flat: list[nn.Layer] = []
    for layer in layers:
        flat += layer.steps() if _is_order(layer) else [layer]
    parts: dict[str, Any] = {}
    for done, layer in enumerate(flat):
        affine = "behind" if "act" in parts else "before"
        if not _is_itself(layer):
            return Finish(**parts), flat[done:]
        if type(layer) is LearnableAffine and affine not in parts:
            parts[affine] = layer.scale, layer.bias
        elif type(layer) in _NAMES and "act" not in parts:
            parts["act"] = _NAMES[type(layer)]
        else:
            return Finish(**parts), flat[done:]
    return Finish(**parts), []


@paddle.jit.not_to_static
def _run(layers: Iterable[nn.Layer], x: Tensor | Deferred) -> Tensor | Deferred:
    """The layers one after another."""
    for layer in layers:
        x = layer.deferred(x) if isinstance(layer, Native) else layer(values(x))
    return x


def _norm_act(
    layer: Native, x: Tensor, norm: nn.BatchNorm2D, act: nn.Layer, bias: Tensor | None = None
) -> Tensor:
    fused, how = _norm_of(norm, act)
    y = norm_act(x, *how, layer._kernels.library, bias)
    return y if fused else act(y)


def _norm_of(norm: nn.BatchNorm2D, act: nn.Layer) -> tuple[bool, Norm]:
    """Whether the activation is computed with the normalisation, and what `norm_act` is told."""
    known = type(act) in _NAMES and _is_itself(act)
    options = norm._epsilon, norm._momentum, _NAMES[type(act)] if known else None
    return known, (norm.weight, norm.bias, (norm._mean, norm._variance), options)


def _is_known(norm: nn.Layer) -> bool:
    plain = type(norm) is nn.BatchNorm2D and norm.weight is not None and norm.bias is not None
    plain = plain and norm._data_format == "NCHW" and not norm._use_global_stats
    return plain and _is_itself(norm)


def _is_order(layer: nn.Layer) -> bool:
    """Whether its steps are all that a layer is."""
    if not isinstance(layer, NativeInOrder) or layer.shortcut or not _is_itself(layer):
        return False
    return type(layer).forward is NativeInOrder.forward


def _is_itself(layer: nn.Layer) -> bool:
    """Whether nothing but its class's forward happens when the layer is called."""
    hooks = layer._forward_pre_hooks or layer._forward_post_hooks
    return not hooks and "forward" not in vars(layer)
