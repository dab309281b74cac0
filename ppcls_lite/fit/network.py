"""The largest network of a family that answers in time on this machine. Read next: run.py."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ppcls_lite.benchmark import models, turns
from ppcls_lite.benchmark.machine import describe, quietest_first
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.system.installed import missing
from ppcls_lite.system.machine import default_threads, in_the_way

logger = logging.getLogger("ppcls_lite")
FAMILY = "PPLCNet_x"  # networks of one kind: a larger one is more accurate and takes longer


def fastest_first() -> list[str]:
    """The family, by its published costs."""
    names = [name for name in ZOO if name.startswith(FAMILY)]
    return sorted(names, key=lambda name: ZOO[name].flops_m or 0)


def within(names: Sequence[str], budget: float, measure: Callable[[str], float]) -> str:
    """The last of `names`, in the order of their costs, that takes `budget` ms at most.

    Halves what is left with every measurement. Raises UserError where the first takes longer.
    """
    low, high = 0, len(names)  # names[:low] are fast enough, names[high:] are not
    taken = 0.0
    while low < high:
        middle = (low + high) // 2
        taken = measure(names[middle])
        low, high = (middle + 1, high) if taken <= budget else (low, middle)
    if low == 0:
        raise UserError(
            f"--latency: {names[0]}, the smallest network, takes {taken:.2f} ms here, more than "
            f"{budget:g}; allow more, or give smaller images with --size"
        )
    return names[low - 1]


def by_latency(budget: float, size: int, class_num: int) -> str:
    """The network for images of `size` that takes `budget` ms an image here, engine `auto`."""
    cores = quietest_first(describe().cores)
    if busy := in_the_way(len(cores)):
        logger.warning(f"--latency: {busy}: times will be too long, and the network too small")
    setting = Setting("auto", "any", default_threads())
    formats = ["paddle"] if missing("onnx") else ["paddle", "onnx"]
    with tempfile.TemporaryDirectory() as room:

        def measure(name: str) -> float:
            job = models.Job((size, size), class_num)
            exported = models.prepare([name], Path(room), job, formats, logger.debug)
            ask = (exported, [setting], [1], (3, size, size), cores, Path(room))
            (result,), _ = turns.measure(*ask, rounds=3, seconds=0.3, say=logger.debug)
            logger.info(f"{name}: {result.median:.2f} ms an image ({result.chosen})")
            return result.median

        return within(fastest_first(), budget, measure)
