"""What the CPU kernels save in training a detector: `tools/benchmark.py detection`.

The same network with Paddle's own operators and with the kernels, on the same batches in memory:
one update of each size, in turns, so that the ratio holds on a busy machine too. Each number of
threads is measured in a process of its own. Read before: segmentation.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import paddle

from experiments.speed.segmentation import KERNELS, RATE, STOCK, compared
from experiments.speed.train import Cost
from ppcls_lite import kernels
from ppcls_lite.engine import device
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.losses.assigners import SimOTA, TaskAligned
from ppcls_lite.losses.picodet import PicoDetLoss
from ppcls_lite.models.create import create_model
from ppcls_lite.system.processes import environment

BOXES = 8  # of an image
ROWS = 50  # in which a batch holds them
LEGACY = "picodet_legacy_"  # names of the first generation


def batch_of(options: argparse.Namespace, size: int) -> dict[str, paddle.Tensor]:
    """Noise, and boxes of a tenth to a half of the image, (N, ROWS, 4)."""
    rng = np.random.default_rng(size)
    count = options.batch_size
    first = rng.uniform(0, 0.5, (count, BOXES, 2))
    edges = rng.uniform(0.1, 0.5, (count, BOXES, 2))
    boxes = np.full((count, ROWS, 4), -1, np.float32)
    boxes[:, :BOXES] = size * np.concatenate([first, first + edges], axis=2)
    classes = np.full((count, ROWS), -1, np.int64)
    classes[:, :BOXES] = rng.integers(0, options.classes, (count, BOXES))
    image = rng.standard_normal((count, 3, size, size), np.float32)
    found = {"image": image, "boxes": boxes, "classes": classes}
    return {key: paddle.to_tensor(array) for key, array in found.items()}


def updates(options: argparse.Namespace, with_kernels: bool) -> Callable[[], Cost]:
    """An update at each of the sizes: forward, loss, backward, step."""
    paddle.seed(0)
    model = create_model(options.arch, class_num=options.classes)
    loss = PicoDetLoss(SimOTA() if options.arch.startswith(LEGACY) else TaskAligned())
    kernels.prepare(model, "on" if with_kernels else "off", "cpu")
    learnt = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.Momentum(RATE, 0.9, learnt, weight_decay=4e-5)
    batches = [batch_of(options, size) for size in options.sizes]
    model.train()

    def update() -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            terms = loss(model(batch["image"]), batch).values()
            total = sum(term.total / term.divisor.clip(min=1) for term in terms)
            total.backward()
            optimizer.step()
            optimizer.clear_grad()
            float(total)
        share = len(batches)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Cost(wall / share, cpu / share)

    return update


def run(argv: list[str]) -> int:
    """Measure and print; exit status 1 if the kernels are slower than `--at-least` times Paddle."""
    options = _parser().parse_args(argv)
    if options.threads:
        return max(_with_threads(count, argv) for count in options.threads)
    device.select("cpu")
    sizes = ", ".join(map(str, options.sizes))
    print(f"{options.arch}, batches of {options.batch_size} images, {sizes} pixels, on a CPU")
    contenders = {STOCK: updates(options, False), KERNELS: updates(options, True)}
    return compared(contenders, options.rounds, options.at_least)


def _with_threads(count: int, argv: list[str]) -> int:
    """The same in a process with so many threads; its exit status."""
    print(f"{count} threads:" if count > 1 else "1 thread:", flush=True)
    code = "import sys; from experiments.speed.detection import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *argv, "--threads"]
    return subprocess.run(command, env=environment(OMP_NUM_THREADS=str(count))).returncode


def _parser() -> argparse.ArgumentParser:
    text = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="benchmark.py detection", description=text)
    add = parser.add_argument
    add("--arch", default="picodet_legacy_PPLCNet_x0_5", help="a network of the zoo")
    add("--classes", type=positive, default=80)
    add("--batch-size", type=positive, default=8)
    add("--sizes", type=positive, nargs="+", default=[192, 224, 256], help="edges of the images")
    add("--threads", type=positive, nargs="*", default=[1, 2], help="of OpenMP (1 2)")
    add("--rounds", type=positive, default=5)
    add("--at-least", type=float, default=0.0, help="smallest ratio that passes")
    return parser
