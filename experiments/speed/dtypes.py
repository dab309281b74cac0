"""What bf16 products save in a training step on a CPU: `benchmark.py dtypes`.

The same network trains on the same batches in memory with the kernels of float32 and with those
of `Global.cpu_kernels_dtype: bf16`, in turns within one process; `--stock` adds Paddle's own. What
is compared is processor time per image, and the clock's. `OMP_NUM_THREADS` says how many threads.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

from experiments.speed.train import Batches, Cost, bare_loop
from ppcls_lite.engine import device
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.kernels import native
from ppcls_lite.system.timing import in_turns

STOCK, PLAIN, SHORT = "paddle", "fp32", "bf16"


def run(argv: Sequence[str]) -> int:
    """Measure and print."""
    options = _parser().parse_args(argv)
    device.select("cpu")
    for arch in options.arch:
        _compare(arch, options)
    return 0


def _compare(arch: str, options: argparse.Namespace) -> None:
    batches = Batches(options.steps, options.batch_size, options.image_size)

    def turn(epoch: Callable[[], None]) -> Cost:
        epoch()
        return batches.cost

    loops = {PLAIN: bare_loop(arch, batches, "on"), SHORT: bare_loop(arch, batches, "on", SHORT)}
    if options.stock:
        loops[STOCK] = bare_loop(arch, batches)
    costs = in_turns({name: partial(turn, loop) for name, loop in loops.items()}, options.rounds)
    size = options.image_size
    print(
        f"{arch}, {size}x{size}, batches of {options.batch_size}, {native.threads()} threads, "
        f"{options.rounds} rounds; {SHORT} is so many times as fast:"
    )
    for name, measured in costs.items():
        cpu = 1e3 * statistics.median(cost.cpu for cost in measured) / batches.images
        pairs = list(zip(measured, costs[SHORT]))
        ratios = sorted(own.cpu / short.cpu for own, short in pairs)
        clock = statistics.median(own.wall / short.wall for own, short in pairs)
        print(
            f"{name:7} {cpu:8.2f} ms of processor per image   {statistics.median(ratios):.2f}x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}), by the clock {clock:.2f}x",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    text = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="benchmark.py dtypes", description=text)
    add = parser.add_argument
    add("--arch", nargs="+", default=["PPLCNet_x0_5"], help="networks of the zoo")
    add("--batch-size", type=positive, default=64)
    add("--image-size", type=positive, default=224)
    add("--steps", type=positive, default=3, help="per round and contender")
    add("--rounds", type=positive, default=5)
    add("--stock", action="store_true", help="Paddle's own operators as well")
    return parser
