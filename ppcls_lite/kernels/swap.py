"""Putting the kernels into a network: `convert` exchanges the classes of its layers.

A layer keeps its parameters, names and attributes; only its `forward` in training becomes another.
Everywhere else (evaluation, static graphs and export, other types or devices, hooks on a part that
is computed together with another) the layer's own forward runs. `revert` undoes it.
Read next: ops.py.
"""

from __future__ import annotations

import ctypes

import paddle
from paddle import Tensor, nn

from ppcls_lite.kernels.ops import ACTIVATIONS, Window, dense_conv, depthwise_conv, linear, norm_act
from ppcls_lite.models.layers import ConvBN, NamedConvBN

IMAGE_CHANNELS = 4  # a layer with no more inputs reads images, whose gradient nobody wants
_NAMES = {nn.Identity: None, nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish"}


class _Native:
    """What `convert` gives to a layer: the library and the class it had."""

    _kernels: _Kernels


class _Kernels:
    """A handle that copies of the network share: a library cannot be copied."""

    def __init__(self, library: ctypes.CDLL, stock: type, window: Window | None = None) -> None:
        self.library, self.stock, self.window = library, stock, window

    def __deepcopy__(self, memo: dict) -> _Kernels:
        return self


class NativeDepthwise(nn.Conv2D, _Native):
    """A depthwise convolution."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if self.training and _is_plain(x):
            y = depthwise_conv(x, self.weight, self._kernels.window, self._kernels.library)
            return y if self.bias is None else y + self.bias.reshape([1, -1, 1, 1])
        return nn.Conv2D.forward(self, x)


class NativeDense(nn.Conv2D, _Native):
    """A 1x1 convolution, or the first layer."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if self.training and _is_plain(x) and (x.stop_gradient or self._kernel_size[0] == 1):
            y = dense_conv(x, self.weight, self._kernels.window, self._kernels.library)
            return y if self.bias is None else y + self.bias.reshape([1, -1, 1, 1])
        return nn.Conv2D.forward(self, x)


class NativeLinear(nn.Linear, _Native):
    """The classifier."""

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.ndim == 2 and _is_plain(x):
            y = linear(x, self.weight, self._kernels.library)
            return y if self.bias is None else y + self.bias
        return nn.Linear.forward(self, x)


class NativeConvBN(ConvBN, _Native):
    """Batch normalisation and activation in one pass."""

    def forward(self, x: Tensor) -> Tensor:
        return _norm_act(self, self.conv(x), self.bn, self.act)


class NativeNamedConvBN(NamedConvBN, _Native):
    """The same under the older names."""

    def forward(self, x: Tensor) -> Tensor:
        return _norm_act(self, self._conv(x), self._batch_norm, self._act)


def convert(model: nn.Layer, library: ctypes.CDLL) -> int:
    """Let `model` train with the kernels of `library`; returns how many layers changed."""
    changed = 0
    for layer in model.sublayers(include_self=True):
        kind, window = _kind(layer)
        if kind is not None:
            layer._kernels = _Kernels(library, type(layer), window)
            layer.__class__ = kind
            changed += 1
    return changed


def revert(model: nn.Layer) -> None:
    """Give all layers the class that they had before `convert`."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, _Native):
            layer.__class__ = layer._kernels.stock
            del layer._kernels


def _kind(layer: nn.Layer) -> tuple[type | None, Window | None]:
    """The class that `layer` gets, None if it stays as it is."""
    if isinstance(layer, _Native):
        return None, None
    if type(layer) is nn.Conv2D:
        window = _window(layer)
        if window is None:
            return None, None
        if layer._groups == layer._in_channels == layer._out_channels and layer._groups > 1:
            return NativeDepthwise, window
        if layer._groups == 1 and _is_dense(layer, window):
            return NativeDense, window
        return None, None
    if type(layer) is nn.Linear:
        return NativeLinear, None
    for stock, native in ((ConvBN, NativeConvBN), (NamedConvBN, NativeNamedConvBN)):
        if type(layer) is stock:
            return native, None
        if isinstance(layer, stock):  # its forward calls stock's, which native then replaces
            name = f"Native{type(layer).__name__}"
            return type(name, (type(layer), native), {"__module__": __name__}), None
    return None, None


def _window(conv: nn.Conv2D) -> Window | None:
    """The convolution's geometry if the kernels know it."""
    numbers = [_pair(v) for v in (conv._kernel_size, conv._stride, conv._padding)]
    plain = conv._data_format == "NCHW" and conv._padding_mode == "zeros"
    if None in numbers or not plain or _pair(conv._dilation) != (1, 1):
        return None
    return Window(*numbers)


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0], value[1]
    return None  # "SAME", or padding that differs between the sides


def _is_dense(conv: nn.Conv2D, window: Window) -> bool:
    if window == Window((1, 1), (1, 1), (0, 0)):
        return True
    square = len(set(window.kernel)) == len(set(window.padding)) == 1
    return square and conv._in_channels <= IMAGE_CHANNELS and window.kernel[0] > 1


def _is_plain(x: Tensor) -> bool:
    """Whether `x` is a float32 tensor of a CPU outside a static graph."""
    return paddle.in_dynamic_mode() and x.dtype == paddle.float32 and x.place.is_cpu_place()


@paddle.jit.not_to_static
def _norm_act(layer: _Native, x: Tensor, norm: nn.BatchNorm2D, act: nn.Layer) -> Tensor:
    if not (norm.training and _is_plain(x) and _is_known(norm)):
        return act(norm(x))
    fused = _NAMES.get(type(act)) if _without_hooks(act) else None
    options = norm._epsilon, norm._momentum, fused
    running = norm._mean, norm._variance
    y = norm_act(x, norm.weight, norm.bias, running, options, layer._kernels.library)
    return y if fused in ACTIVATIONS and fused is not None else act(y)


def _is_known(norm: nn.Layer) -> bool:
    plain = type(norm) is nn.BatchNorm2D and norm.weight is not None and norm.bias is not None
    return plain and not norm._use_global_stats and _without_hooks(norm)


def _without_hooks(layer: nn.Layer) -> bool:
    return not (layer._forward_pre_hooks or layer._forward_post_hooks)
