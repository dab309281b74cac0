"""From `Global.cpu_kernels` to a network that trains with the kernels, or with stock ones.

`auto`: the kernels if they can be had, else stock Paddle and one log line with the reason. `on`:
a UserError instead. `off`: stock. `Global.cpu_kernels_dtype: bf16` wants those whose dense products
are of bf16 numbers; where there are none, `auto` takes those of float32, and one log line says so.
Read next: build.py (the library), swap.py (the network).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from pathlib import Path
from typing import Literal

from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.kernels import build, library
from ppcls_lite.kernels.swap import convert

logger = logging.getLogger("ppcls_lite")

Mode = Literal["auto", "on", "off"] | bool  # for YAML, on and off are true and false
THREADS = "PPCLS_LITE_THREADS"  # system/cores.py sets it before Paddle is imported


def prepare(
    model: nn.Layer, mode: Mode, device: str, dtype: build.Dtype = "fp32"
) -> ctypes.CDLL | None:
    """Let `model` train with the kernels, as `mode` and `dtype` say.

    Returns their library; None if it trains with Paddle's own. `device` is the run's: on anything
    but `cpu` there is nothing to do. Raises UserError for `on` where that is impossible.
    """
    if mode in ("off", False) or (mode == "auto" and device != "cpu"):
        return None
    if device != "cpu":
        raise UserError(
            f"Global.cpu_kernels: on is for a CPU, but this run uses {device}; use auto or off, "
            "or Global.device: cpu"
        )
    kernels = _wanted(dtype) if mode in ("on", True) else _best(dtype)
    if kernels is None:
        return None
    kernels.keep_memory()
    kernels.bind_threads()
    changed = convert(model, kernels)
    products = ", dense products in bf16" if kernels.multiplies_bf16() else ""
    logger.info(f"CPU kernels: native in {changed} layers, {threads()} threads each{products}")
    return kernels


def prepare_to_score(model: nn.Layer, mode: Mode, device: str) -> None:
    """The same for a network that is only evaluated, without the wait for a compiler.

    What evaluates is float32. Kernels that no training has built on this machine are not used.
    """
    if mode in ("off", False) or device != "cpu" or (path := build.kept()) is None:
        return
    with contextlib.suppress(OSError, AttributeError):  # e.g. programs may not run from there
        convert(model, _ready(path))


def _wanted(dtype: build.Dtype) -> ctypes.CDLL:
    """The kernels of that kind. Raises UserError if there are none."""
    try:
        return available(dtype)
    except build.KernelsError as error:
        if dtype == "fp32":
            found, otherwise = "there are none", "With auto or off the network trains"
        else:
            found = f"there are none for cpu_kernels_dtype: {dtype}"
            otherwise = "Use cpu_kernels_dtype: fp32; or with cpu_kernels: off the network trains"
        raise UserError(
            f"Global.cpu_kernels: on, but {found}: {error}. {otherwise} with Paddle's own "
            "kernels, more slowly"
        ) from None


def _best(dtype: build.Dtype) -> ctypes.CDLL | None:
    """The kernels of that kind, else those of float32, else None; one log line says what it is."""
    try:
        return available(dtype)
    except build.KernelsError as error:
        if dtype != "fp32":
            with contextlib.suppress(build.KernelsError):
                kernels = available()
                logger.warning(f"CPU kernels: dense products in fp32, not {dtype}: {error}")
                return kernels
        logger.warning(f"CPU kernels: Paddle's own, which are slower: {error}")
        return None


def available(dtype: build.Dtype = "fp32") -> ctypes.CDLL:
    """The kernels, compiled and tested now if that has not happened on this machine.

    Raises `build.KernelsError` with the reason if there are none.
    """
    for build_it in (build.built, build.built_for_this_run):
        try:
            return _ready(build_it(dtype))
        except (OSError, AttributeError) as error:  # e.g. programs may not run from there
            reason = error
    raise build.KernelsError(f"the compiled library cannot be loaded: {reason}")


def _ready(path: Path) -> ctypes.CDLL:
    kernels = library.load(path)
    kernels.use_threads(threads())
    return kernels


def threads() -> int:
    """`PPCLS_LITE_THREADS`, else `OMP_NUM_THREADS`, else 1."""
    for name in (THREADS, "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return 1
