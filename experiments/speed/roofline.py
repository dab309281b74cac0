"""Where a training step on a CPU goes, and what the machine allows: `benchmark.py roofline`.

Every call of a kernel in some steps, by layer: bytes that it has to move, multiplications, time of
the processor, and its bound, the larger of bytes / bandwidth and multiplications / peak (the
roofline model of Williams, Waterman, Patterson 2009). Bandwidth and peak are measured beforehand,
on one thread: a large array is copied, and a loop (peak.cpp) multiplies in registers. The bytes are
those of a kernel that reads and writes each activation as rarely as training permits: a convolution
reads its input and writes its output, backward it reads both and a gradient and writes another one;
a normalisation is part of the convolution in front of it. The peak is that of float32. What Python
and Paddle's own operators take is the rest.
Read before: train.py; ppcls_lite/kernels/library.py has the calls.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from experiments.speed.train import CLASSES, Batches, bare_loop
from ppcls_lite.engine import device
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.kernels import build
from ppcls_lite.kernels.library import (
    DenseShape,
    DepthwiseShape,
    NormShape,
    PlanesShape,
    PoolShape,
    ShuffleShape,
    SumShape,
)

STEPS = 2  # before those that count


@dataclass(frozen=True)
class Work:
    """What a call cannot do without: bytes of activations and weights, multiplications."""

    bytes: int
    products: int


Shape = DepthwiseShape | DenseShape | NormShape | PlanesShape | PoolShape | ShuffleShape | SumShape


def work_of(backward: bool, shape: Shape) -> Work:
    """Of a call with this shape, the first that it is given."""
    if isinstance(shape, SumShape):  # reads the terms, writes the sum and what is made of it
        planes, passes = shape.planes, shape.terms + (3 if backward else 2)
        return Work(4 * planes.n * planes.c * planes.size * passes, 0)
    if isinstance(shape, ShuffleShape):  # reads two halves and writes both
        return Work(4 * shape.half.n * shape.half.c * shape.half.size * 4, 0)
    if isinstance(shape, PlanesShape):  # of attention: it reads all planes and writes or reads more
        return Work(4 * shape.n * shape.c * shape.size * 2, 0)
    if isinstance(shape, NormShape):  # of a result that is stored for others than a convolution
        floats = shape.n * shape.c * shape.size
        return Work(4 * floats * (3 if backward else 2), 0)
    if isinstance(shape, PoolShape):  # reads the input, backward writes its gradient as well
        read = shape.h * shape.w * (2 if backward else 1)
        return Work(4 * shape.n * shape.c * (read + shape.out_h * shape.out_w), 0)
    depthwise = isinstance(shape, DepthwiseShape)
    inputs, outputs = (shape.c, shape.c) if depthwise else (shape.inputs, shape.outputs)
    read, written = inputs * shape.h * shape.w, outputs * shape.out_h * shape.out_w
    taps = shape.kernel_h * shape.kernel_w
    weights = outputs * taps * (1 if depthwise else inputs)
    products = shape.n * shape.out_h * shape.out_w * weights
    passes = 2 if backward else 1
    return Work(4 * (passes * shape.n * (read + written) + weights), passes * products)


@dataclass
class Called:
    """The calls of one kernel by one layer."""

    work: Work
    seconds: list[float]


class Watched:
    """A layer's library, which notes what its calls take."""

    def __init__(self, library: ctypes.CDLL, layer: str, calls: dict[tuple, Called]) -> None:
        self._library, self._layer, self._calls = library, layer, calls

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._library, name)

        def call(*arguments: Any) -> None:
            start = time.process_time()
            function(*arguments)
            seconds = time.process_time() - start
            shape = next(one for one in arguments if isinstance(one, ctypes.Structure))
            called = Called(work_of("backward" in name or "sums" in name, shape), [])
            self._calls.setdefault((self._layer, name), called).seconds.append(seconds)

        return call


def bandwidth(megabytes: int = 128, rounds: int = 7) -> float:
    """Bytes a second that one thread reads and writes in copying what no cache holds."""
    source = np.ones(megabytes << 18, np.float32)
    target = np.zeros_like(source)
    return 2 * source.nbytes / _fastest(lambda: np.copyto(target, source), rounds)


def peak(rounds: int = 7, repeats: int = 1_000_000) -> float:
    """Multiplications a second, each with its addition, of one thread with its widest vectors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        command = [*build.find_compiler().command, *build.FLAGS, f"-I{build.SOURCES}", "-shared"]
        source = Path(__file__).with_name("peak.cpp")
        for machine in build.MACHINE_FLAGS:
            done = subprocess.run([*command, *machine, source, "-o", path], capture_output=True)
            if done.returncode == 0:
                break
        own = ctypes.CDLL(str(path))
    own.multiply_and_add.argtypes = [ctypes.c_int64]
    return repeats * own.products() / _fastest(lambda: own.multiply_and_add(repeats), rounds)


def _fastest(work: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def run(argv: Sequence[str]) -> int:
    """Measure and print."""
    options = _parser().parse_args(argv)
    device.select("cpu")
    bytes_a_second = options.bandwidth * 1e9 if options.bandwidth else bandwidth()
    products_a_second = options.peak * 1e9 if options.peak else peak()
    images = options.batch_size

    def bound(work: Work) -> float:
        return max(work.bytes / bytes_a_second, work.products / products_a_second)

    calls: dict[tuple[str, str], Called] = {}
    batches = Batches(options.steps, images, options.image_size)

    def watch(model: paddle.nn.Layer) -> None:
        for name, layer in model.named_sublayers(include_self=True):
            if (handle := getattr(layer, "_kernels", None)) is not None:
                handle.library = Watched(handle.library, name, calls)

    epoch = bare_loop(options.arch, batches, "on", options.dtype, change=watch)
    for _ in range(STEPS):
        calls.clear()
        epoch()
    whole = 1e3 * batches.cost.cpu / batches.images
    print(
        f"{options.arch}, {options.image_size}x{options.image_size}, batches of {images}, "
        f"{CLASSES} classes; {bytes_a_second / 1e9:.1f} GB/s, {products_a_second / 1e9:.1f} "
        "billion multiplications a second; milliseconds of processor, per image\n"
    )
    head = ("layer", "call", "MB", "million products", "time", "bound", "times", "bound by")
    print(f"| {' | '.join(head)} |\n|---|---|---:|---:|---:|---:|---:|---|")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for (layer, name), called in calls.items():
        often = len(called.seconds) / options.steps
        taken = 1e3 * often * statistics.median(called.seconds) / images
        work, least = called.work, 1e3 * often * bound(called.work) / images
        figures = often * work.bytes / 1e6 / images, often * work.products / 1e6 / images
        sums[name] = [a + b for a, b in zip(sums[name], (*figures, taken, least))]
        memory = work.bytes / bytes_a_second > work.products / products_a_second
        print(_row(layer or "-", name, *figures, taken, least, "memory" if memory else "products"))
    for name, figures in sums.items():
        print(_row("**all**", name, *figures, ""))
    total = [sum(column) for column in zip(*sums.values())]
    print(_row("**all**", "kernels", *total, ""))
    print(f"\nstep {whole:.3f} ms, kernels {total[2]:.3f}, rest {whole - total[2]:.3f}; ", end="")
    print(f"the kernels take {total[2] / total[3]:.2f} times their bound")
    return 0


def _row(
    layer: str, name: str, megabytes: float, products: float, taken: float, least: float, by: str
) -> str:
    figures = f"{megabytes:.2f} | {products:.1f} | {taken:.3f} | {least:.3f}"
    return f"| {layer} | {name} | {figures} | {taken / max(least, 1e-9):.1f} | {by} |"


def _parser() -> argparse.ArgumentParser:
    text = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="benchmark.py roofline", description=text)
    add = parser.add_argument
    add("--arch", default="PPLCNet_x0_5", help="a network of the zoo")
    add("--batch-size", type=positive, default=16)
    add("--image-size", type=positive, default=224)
    add("--steps", type=positive, default=5, help="that count")
    add("--dtype", choices=sorted(build.KINDS), default="fp32", help="of dense products")
    add("--bandwidth", type=float, metavar="GB/S", help="of memory; measured if left out")
    add("--peak", type=float, metavar="BILLIONS", help="multiplications a second; likewise")
    return parser
