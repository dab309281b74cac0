"""What the training loop costs: the toolkit's loop against a bare forward-backward-step loop.

Both train the same network on the same batches in memory, with the CPU kernels unless
`--cpu-kernels off`. The bare loop is what one would write by hand with Paddle's own cross entropy;
the toolkit's has its loss, top-1 and top-5 on every batch, the schedule, running averages, log
lines and records. The contenders alternate within one run, so that the ratio holds on a busy
machine too. Reading images is measured by `benchmark.py data`.
`--processes 1 2` compares numbers of processes instead: see processes.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import paddle
from paddle import Tensor, nn

from experiments.speed import processes
from ppcls_lite import kernels
from ppcls_lite.engine import device, log, memory
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.metrics.topk import TopkAcc
from ppcls_lite.models.create import create_model
from ppcls_lite.optim.schedule import Cosine
from ppcls_lite.system.timing import in_turns

CLASSES = 1000
RATE = 0.01


@dataclass
class Cost:
    """Seconds of one round: by the clock, and of the processor (all threads)."""

    wall: float
    cpu: float


class Batches:
    """`steps` batches an epoch, made beforehand; measures from the first to after the last."""

    paths = ()

    def __init__(self, steps: int, batch_size: int, image_size: int) -> None:
        paddle.seed(0)
        self._batches = [
            {
                "image": paddle.randn([batch_size, 3, image_size, image_size]),
                "label": paddle.randint(0, CLASSES, [batch_size]),
                "index": paddle.arange(batch_size),
            }
            for _ in range(min(steps, 4))
        ]
        self._steps = steps
        self.images = steps * batch_size  # an epoch
        self.cost = Cost(0.0, 0.0)

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        _finish()
        wall, cpu = time.perf_counter(), time.process_time()
        for step in range(start_step, self._steps):
            yield self._batches[step % len(self._batches)]
        _finish()
        self.cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)


def _finish() -> None:
    """Wait until a GPU has done what was asked of it."""
    if paddle.get_device().startswith("gpu"):
        paddle.device.synchronize()


def bare_loop(
    arch: str,
    batches: Batches,
    cpu_kernels: Literal["auto", "on", "off"] = "off",
    dtype: Literal["fp32", "bf16"] = "fp32",
    change: Callable[[nn.Layer], None] | None = None,
) -> Callable[[], None]:
    """One epoch of forward, backward, step, as one would write it; `change` sees the network."""
    model = create_model(arch, class_num=CLASSES)
    kernels.prepare(model, cpu_kernels, paddle.get_device(), dtype)
    if change is not None:
        change(model)
    optimizer = paddle.optimizer.Momentum(RATE, 0.9, model.parameters(), weight_decay=3e-5)

    def epoch() -> None:
        model.train()
        for batch in batches.epoch(0):
            nn.functional.cross_entropy(model(batch["image"]), batch["label"]).backward()
            optimizer.step()
            optimizer.clear_grad()

    return epoch


def toolkit_loop(
    arch: str,
    batches: Batches,
    run_dir: str,
    rounds: int,
    world: World | None = None,
    cpu_kernels: Literal["auto", "on", "off"] = "off",
) -> Callable[[], None]:
    """One epoch of the trainer, with the training metrics of the stock recipes."""
    model = create_model(arch, class_num=CLASSES)
    kernels.prepare(model, cpu_kernels, paddle.get_device())
    optimizer = paddle.optimizer.Momentum(RATE, 0.9, model.parameters(), weight_decay=3e-5)
    state = TrainingState(
        Supervised(model, CombinedLoss([CELoss()])),
        optimizer,
        Cosine(epochs=rounds, step_each_epoch=len(batches), learning_rate=RATE),
        steps=len(batches),
        metrics=[TopkAcc([1, 5])],
        world=world,
    )
    writer = Writer(run_dir, active=state.world.is_main)

    def epoch() -> None:
        Trainer(state, batches, Plan(epochs=state.epoch), writer).fit()

    return epoch


def run(argv: list[str]) -> int:
    """Measure and print; exit status 1 if the ratio is below `--at-least`."""
    options = _parser().parse_args(argv)
    if options.processes:
        return processes.compare(options)
    used = device.select(options.device)
    batches = Batches(options.steps, options.batch_size, options.image_size)
    images = options.steps * options.batch_size
    print(
        f"{options.arch} on {used}: {options.rounds} rounds of {options.steps} steps of "
        f"{options.batch_size} images of {options.image_size}x{options.image_size}"
    )
    with tempfile.TemporaryDirectory() as run_dir, contextlib.ExitStack() as at_end:
        log.setup(Path(run_dir))  # lines are written as in any run, only not shown
        at_end.callback(log.setup)
        mode = options.cpu_kernels
        rounds = options.rounds + 1
        with contextlib.redirect_stdout(io.StringIO()):
            bare = bare_loop(options.arch, batches, mode)
            ours = toolkit_loop(options.arch, batches, run_dir, rounds, cpu_kernels=mode)
        contenders = {"bare": bare, "toolkit": ours}

        def turn(epoch: Callable[[], None]) -> Cost:
            with contextlib.redirect_stdout(io.StringIO()):
                epoch()
            return batches.cost

        turns = {name: partial(turn, epoch) for name, epoch in contenders.items()}
        costs = in_turns(turns, options.rounds)
    for name, measured in costs.items():
        speed = images / statistics.median(cost.wall for cost in measured)
        cpu = statistics.median(cost.cpu for cost in measured) / images
        print(f"{name:8} {speed:9.1f} images/s   {1000 * cpu:8.3f} ms of processor per image")
    pairs = list(zip(costs["bare"], costs["toolkit"]))
    wall = statistics.median(bare.wall / toolkit.wall for bare, toolkit in pairs)
    cpu = statistics.median(bare.cpu / toolkit.cpu for bare, toolkit in pairs)
    print(f"toolkit / bare: {wall:.1%} by the clock, {cpu:.1%} by processor time (medians)")
    print(", ".join(f"{name}: {value:.0f} MiB" for name, value in memory.peak().items()))
    return int(wall < options.at_least)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py train", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="PPLCNet_x0_25", help="a network of the zoo")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10, help="per round and contender")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu")
    parser.add_argument(
        "--processes", type=int, nargs="+", help="compare numbers of processes on the CPU, e.g. 1 2"
    )
    parser.add_argument(
        "--cpu-kernels", choices=("auto", "off"), default="auto", help="in all contenders"
    )
    parser.add_argument("--at-least", type=float, default=0.0, help="smallest ratio that passes")
    return parser
