"""From `Global.cpu_kernels` to a network that trains with the kernels, or with stock ones.

`auto`: the kernels if they can be had, else stock Paddle and one log line with the reason. `on`:
a UserError instead. `off`: stock. Read next: build.py (the library), swap.py (the network).
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import Literal

from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.kernels import build, library
from ppcls_lite.kernels.swap import convert

logger = logging.getLogger("ppcls_lite")

Mode = Literal["auto", "on", "off"] | bool  # for YAML, on and off are true and false
THREADS = "PPCLS_LITE_THREADS"  # system/cores.py sets it before Paddle is imported


def prepare(model: nn.Layer, mode: Mode, device: str) -> bool:
    """Let `model` train with the kernels, as `mode` says; returns whether it does.

    `device` is the run's: on anything but `cpu` there is nothing to do. Raises UserError for `on`
    where that is impossible.
    """
    if mode in ("off", False) or (mode == "auto" and device != "cpu"):
        return False
    if device != "cpu":
        raise UserError(
            f"Global.cpu_kernels: on is for a CPU, but this run uses {device}; use auto or off, "
            "or Global.device: cpu"
        )
    try:
        kernels = available()
    except build.KernelsError as error:
        if mode in ("on", True):
            raise UserError(
                f"Global.cpu_kernels: on, but there are none: {error}. With auto or off the "
                "network trains with Paddle's own kernels, more slowly"
            ) from None
        logger.warning(f"CPU kernels: Paddle's own, which are slower: {error}")
        return False
    kernels.keep_memory()
    kernels.bind_threads()
    changed = convert(model, kernels)
    logger.info(f"CPU kernels: native in {changed} layers, {threads()} threads each")
    return True


def available() -> ctypes.CDLL:
    """The kernels, compiled and tested now if that has not happened on this machine.

    Raises `build.KernelsError` with the reason if there are none.
    """
    for build_it in (build.built, build.built_for_this_run):
        try:
            kernels = library.load(build_it())
        except (OSError, AttributeError) as error:  # e.g. programs may not run from there
            reason = error
        else:
            kernels.use_threads(threads())
            return kernels
    raise build.KernelsError(f"the compiled library cannot be loaded: {reason}")


def threads() -> int:
    """`PPCLS_LITE_THREADS`, else `OMP_NUM_THREADS`, else 1."""
    for name in (THREADS, "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return 1
