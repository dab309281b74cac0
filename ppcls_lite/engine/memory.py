"""How much memory the process has used at most. Read next: trainer.py."""

from __future__ import annotations

import sys

import paddle

MIB = 1024 * 1024


def peak() -> dict[str, float]:
    """The highest use so far in MiB: `peak_rss_mb` of this process, `peak_gpu_mb` on a GPU.

    Worker processes are not counted. Empty where the system does not tell (Windows).
    """
    found: dict[str, float] = {}
    if sys.platform != "win32":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_rss_mb"] = round(used / (MIB if sys.platform == "darwin" else 1024), 1)
    if paddle.get_device().startswith("gpu"):
        found["peak_gpu_mb"] = round(paddle.device.cuda.max_memory_allocated() / MIB, 1)
    return found
