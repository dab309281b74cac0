"""What an engine for the frozen teacher saves: a training step of SSLD with and without it.

One student learns from one teacher on the same batches in memory; the student trains with the CPU
kernels, as in a run. The teacher is run by the network itself, as before there were engines for it,
and by each of `--engines`. All alternate within one run, so that the ratios hold on a busy machine
too. Read next: ppcls_lite/distill/teacher_engine.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppcls_lite.system import cores
from ppcls_lite.system.timing import in_turns, median_ratio

NETWORK = "network"
MANY = 10**9  # images of a run that is worth an engine


def run(argv: Sequence[str]) -> int:
    """Measure and print; exit status 1 if the first engine's ratio is below `--at-least`."""
    options = _parser().parse_args(argv)
    cores.claim()  # before Paddle is imported
    import paddle

    from experiments.speed.distill import epoch_of, make_batches, make_task
    from ppcls_lite import kernels
    from ppcls_lite.distill.teacher_engine import EngineTeacher

    paddle.set_device("cpu")
    batches = make_batches(options.steps, options.batch_size, options.image_size)
    task = make_task(options.teacher, options.student)
    kernels.prepare(task.trained, "auto", "cpu")
    epoch, network = epoch_of(task, batches), task.frozen["Teacher"]
    teachers: dict[str, Callable[..., Any]] = {NETWORK: network}
    for name in options.engines:
        teachers[name] = EngineTeacher("Teacher", network, name, options.precision, MANY)

    def turn(name: str) -> tuple[float, float]:
        """Seconds by the clock and of the processor."""
        task.teacher_runs["Teacher"] = teachers[name]
        started = time.process_time()
        return epoch(), time.process_time() - started

    found = in_turns({name: lambda n=name: turn(n) for name in teachers}, options.rounds)
    images = options.steps * options.batch_size
    print(
        f"{options.student} from {options.teacher}: {options.rounds} rounds of {options.steps} "
        f"steps of {options.batch_size} images of {options.image_size}x{options.image_size}"
    )
    return _report(found, images, options)


def _report(
    found: Mapping[str, list[tuple[float, float]]], images: int, options: argparse.Namespace
) -> int:
    columns = {name: list(zip(*rounds)) for name, rounds in found.items()}
    ratios = {}
    for name, (wall, cpu) in columns.items():
        ratios[name] = median_ratio(columns[NETWORK][0], wall)
        spent = median_ratio(columns[NETWORK][1], cpu)
        print(
            f"{name:12} {images / statistics.median(wall):8.1f} images/s "
            f"{1000 * statistics.median(cpu) / images:8.2f} ms of processor per image: "
            f"{ratios[name]:.2f} times as fast by the clock, {spent:.2f} by processor time"
        )
    return int(ratios[options.engines[0]] < options.at_least)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py teacher", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--teacher", default="ResNet50_vd", help="a network of the zoo (%(default)s)")
    add("--student", default="PPLCNet_x1_0", help="a network of the zoo (%(default)s)")
    engines = ("auto", "openvino", "onnxruntime", "paddle")
    add("--engines", nargs="+", choices=engines, default=["auto"], help="what is compared (auto)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the engines (fp32)")
    add("--batch-size", type=int, default=16, help="images a step (%(default)s)")
    add("--image-size", type=int, default=224, help="edge in pixels (%(default)s)")
    add("--steps", type=int, default=2, help="per round and contender (%(default)s)")
    add("--rounds", type=int, default=5, help="after one that is not counted (%(default)s)")
    add("--at-least", type=float, default=0.0, help="smallest ratio that passes (0)")
    return parser
