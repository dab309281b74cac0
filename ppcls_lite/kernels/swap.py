"""Putting the kernels into a network: `convert` exchanges the classes of its layers.

`revert` undoes it. Read next: layers.py.
"""

from __future__ import annotations

import copy
import ctypes
import functools

from paddle import nn

from ppcls_lite.kernels.layers import (
    Handle,
    Native,
    NativeAttention,
    NativeAvgPool,
    NativeBackbone,
    NativeBilinear,
    NativeConvNorms,
    NativeDense,
    NativeDepthwise,
    NativeEntropy,
    NativeInOrder,
    NativeLinear,
    NativeMaxPool,
    NativeSequential,
    NativeShuffled,
    NativeSummed,
    geometry_of,
)
from ppcls_lite.kernels.tensors import Window
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import ConvNorms, InOrder, SqueezeExcitation, Summed
from ppcls_lite.models.shuffled import Shuffled
from ppcls_lite.models.upsample import Bilinear
from ppcls_lite.ops.entropy import PixelEntropy


def convert(model: nn.Layer, library: ctypes.CDLL) -> int:
    """Let `model` train with the kernels of `library`; returns how many layers changed."""
    changed = 0
    for layer in model.sublayers(include_self=True):
        kind, window = _kind(layer)
        if kind is not None:
            geometry = copy.deepcopy(geometry_of(layer)) if window else None
            layer._kernels = Handle(library, type(layer), kind, window, geometry)
            layer.__class__ = kind
            changed += 1
    return changed


def revert(model: nn.Layer) -> None:
    """Give all layers the class that they had before `convert`."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Native):
            layer.__class__ = layer._kernels.stock
            del layer._kernels


def _kind(layer: nn.Layer) -> tuple[type | None, Window | None]:
    """The class that `layer` gets, None if it stays as it is."""
    if isinstance(layer, Native):
        return None, None
    if type(layer) is nn.Conv2D:
        window = _window(layer)
        if window is None:
            return None, None
        if layer._groups == layer._in_channels == layer._out_channels and layer._groups > 1:
            return NativeDepthwise, window
        return (NativeDense, window) if layer._groups == 1 else (None, None)
    for stock, native in (
        *((nn.Linear, NativeLinear), (nn.Sequential, NativeSequential)),
        *((Bilinear, NativeBilinear), (SqueezeExcitation, NativeAttention)),
        *((PixelEntropy, NativeEntropy), (nn.MaxPool2D, NativeMaxPool)),
        (nn.AvgPool2D, NativeAvgPool),
    ):
        if type(layer) is stock:
            return native, None
    for stock, native in (
        *((ConvNorms, NativeConvNorms), (InOrder, NativeInOrder)),
        *((Shuffled, NativeShuffled), (Summed, NativeSummed), (Backbone, NativeBackbone)),
    ):
        if isinstance(layer, stock):
            return _inheriting(type(layer), native), None
    return None, None


@functools.cache
def _inheriting(kind: type, native: type) -> type:
    """`kind` whose forward, where it is or calls that of its base, is `native`'s."""
    return type(f"Native{kind.__name__}", (kind, native), {"__module__": __name__})


def _window(conv: nn.Conv2D) -> Window | None:
    """The convolution's geometry if the kernels know it."""
    numbers = [conv._kernel_size, conv._stride, conv._updated_padding, conv._dilation]
    pairs = [tuple(n) for n in numbers if isinstance(n, (list, tuple)) and len(n) == 2]
    plain = conv._padding_algorithm == "EXPLICIT" and conv._padding_mode == "zeros"
    known = len(pairs) == 4 and plain and conv._data_format == "NCHW"
    return Window(*pairs) if known else None
