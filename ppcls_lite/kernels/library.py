"""The compiled kernels as Python sees them: a C ABI of pointers and one struct per call.

Functions get addresses of float32 memory in NCHW order (int64 for what counts classes or pixels)
and a struct that describes it; nothing is checked on the other side, so those who call check
before. Read next: ops.py, source/.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from pathlib import Path

_AFFINE = "scale", "shift"


class DepthwiseShape(ctypes.Structure):
    """`Shape` of source/depthwise.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("n", "c", "h", "w", "out_h", "out_w")),
        *((name, c_int) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w")),
        *((name, c_int) for name in ("pad_h", "pad_w", "dilation_h", "dilation_w")),
    )


class DenseShape(ctypes.Structure):
    """`Shape` of source/dense.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("n", "inputs", "h", "w", "outputs", "out_h", "out_w")),
        *((name, c_int) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w")),
        *((name, c_int) for name in ("pad_h", "pad_w", "dilation_h", "dilation_w")),
    )


class NormShape(ctypes.Structure):
    """`Norm` of source/norm.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("n", "c", "size")),
        *((name, c_float) for name in ("epsilon", "momentum")),
        ("activation", c_int),
    )


class PlanesShape(ctypes.Structure):
    """`PlanesShape` of source/planes.h."""

    _fields_ = tuple((name, c_int64) for name in ("n", "c", "size"))


class PoolShape(ctypes.Structure):
    """`PoolShape` of source/pool.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("n", "c", "h", "w", "out_h", "out_w")),
        *((name, c_int) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w")),
        *((name, c_int) for name in ("pad_h", "pad_w", "average")),
    )


class ShuffleShape(ctypes.Structure):
    """`ShuffleShape` of source/shuffle.cpp."""

    _fields_ = (("half", PlanesShape), ("halved", c_int64))


class SumShape(ctypes.Structure):
    """`SumShape` of source/sum.cpp."""

    _fields_ = (
        ("planes", PlanesShape),
        ("terms", c_int64),
        ("activation", c_int),
        *((f"{place}_{kind}", c_float) for place in ("before", "behind") for kind in _AFFINE),
    )


class BilinearShape(ctypes.Structure):
    """`BilinearShape` of source/bilinear.cpp."""

    _fields_ = tuple((name, c_int64) for name in ("planes", "h", "w", "out_h", "out_w"))


FUNCTIONS = {  # name: number of pointers, structs
    "depthwise_forward": (3, DepthwiseShape),
    "depthwise_backward": (5, DepthwiseShape),
    "norm_forward": (8, NormShape),
    "norm_backward": (9, NormShape),
    "dense_forward": (3, DenseShape),
    "dense_backward": (5, DenseShape),
    "norm_values": (6, NormShape),
    "norm_sums": (8, NormShape),
    "depthwise_norm_forward": (11, DepthwiseShape, NormShape, NormShape),
    "depthwise_norm_backward": (18, DepthwiseShape, NormShape, NormShape),
    "dense_norm_forward": (11, DenseShape, NormShape, NormShape),
    "dense_norm_backward": (18, DenseShape, NormShape, NormShape),
    "attention_means": (6, PlanesShape, NormShape),
    "attention_forward": (7, PlanesShape, NormShape),
    "attention_gates_backward": (7, PlanesShape, NormShape),
    "attention_input_backward": (11, PlanesShape, NormShape),
    "pool_forward": (6, PoolShape, NormShape),
    "pool_backward": (9, PoolShape, NormShape),
    "shuffle_forward": (11, ShuffleShape, NormShape, NormShape),
    "shuffle_backward": (9, PlanesShape, NormShape),
    "sum_forward": (4, SumShape),
    "sum_backward": (7, SumShape),
    "half_forward": (2, PlanesShape),
    "half_backward": (3, PlanesShape),
    "entropy_forward": (4, PlanesShape),
    "entropy_backward": (5, PlanesShape),
    "bilinear_forward": (6, BilinearShape),
    "bilinear_backward": (6, BilinearShape),
}


def load(path: Path) -> ctypes.CDLL:
    """The library at `path`. Raises OSError or AttributeError if it is not what was built."""
    library = ctypes.CDLL(str(path))
    for name, (pointers, *structs) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [*[c_void_p] * pointers, *map(POINTER, structs)]
    library.use_threads.restype, library.use_threads.argtypes = None, [c_int]
    for name in ("bind_threads", "keep_memory", "multiplies_bf16"):
        function = getattr(library, name)
        function.restype, function.argtypes = c_int, []
    return library
