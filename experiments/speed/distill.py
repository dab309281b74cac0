"""What the teacher cache saves: an epoch of distillation with the teacher running, and without.

One student learns from one teacher on the same batches in memory, in three ways: the teacher runs
in every step; it runs and fills a new cache; its logits come from the cache. The three alternate
within one run, so that the ratios hold on a busy machine too. Reading and augmenting images costs
the same in all three and is left out: `benchmark.py data` measures it.
Read next: ppcls_lite/distill/teacher_cache.py.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import Tensor

from ppcls_lite.distill.teacher_cache import open_cache
from ppcls_lite.engine import device
from ppcls_lite.engine.tasks import Distilled
from ppcls_lite.losses.distillation import dml_loss
from ppcls_lite.models.create import create_model
from ppcls_lite.system.timing import in_turns, median_ratio

CLASSES = 1000
RATE = 0.01
WAYS = ("teacher", "filling", "cache")

Batch = dict[str, Tensor]


def make_batches(steps: int, batch_size: int, image_size: int) -> list[Batch]:
    """Noise, each image with its number and the view 0."""
    paddle.seed(0)
    return [
        {
            "image": paddle.randn([batch_size, 3, image_size, image_size]),
            "index": paddle.arange(step * batch_size, (step + 1) * batch_size),
            "view": paddle.zeros([batch_size], dtype="int64"),
        }
        for step in range(steps)
    ]


def make_task(teacher: str, student: str) -> Distilled:
    """A student of a frozen teacher, both with random weights."""
    networks = {
        "Teacher": create_model(teacher, class_num=CLASSES),
        "Student": create_model(student, class_num=CLASSES),
    }
    return Distilled(
        networks,
        lambda outputs, batch: {"loss": dml_loss(outputs["Student"], outputs["Teacher"])},
        frozen=("Teacher",),
    )


def epoch_of(task: Distilled, batches: list[Batch]) -> Callable[[], float]:
    """One epoch of forward, backward, step; the call returns its seconds."""
    optimizer = paddle.optimizer.Momentum(RATE, 0.9, task.model.parameters())

    def epoch() -> float:
        task.train()
        _finish()
        started = time.perf_counter()
        for batch in batches:
            task.losses(batch)[0]["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()
        _finish()
        return time.perf_counter() - started

    return epoch


def run(argv: list[str]) -> int:
    """Measure and print; exit status 1 if the cache's ratio is below `--at-least`."""
    options = _parser().parse_args(argv)
    used = device.select(options.device)
    batches = make_batches(options.steps, options.batch_size, options.image_size)
    images = options.steps * options.batch_size
    task = make_task(options.teacher, options.student)
    epoch = epoch_of(task, batches)
    print(
        f"{options.student} from {options.teacher} on {used}: {options.rounds} rounds of "
        f"{options.steps} steps of {options.batch_size} images of "
        f"{options.image_size}x{options.image_size}"
    )
    with tempfile.TemporaryDirectory() as folder:
        caches = (
            open_cache(Path(folder) / str(number), 1, images, {"Teacher": CLASSES}, {})
            for number in itertools.count()
        )

        def running() -> float:
            task.teacher_outputs = task.run_teachers
            return epoch()

        def filling() -> float:
            cache = next(caches)
            task.teacher_outputs = lambda batch: cache.outputs(batch, task.run_teachers)
            spent = epoch()
            cache.flush()
            return spent

        # the last one reads what the one before it has written
        seconds = in_turns(dict(zip(WAYS, (running, filling, epoch))), options.rounds)
    for way, spent in seconds.items():
        print(f"{way:8} {images / statistics.median(spent):9.1f} images/s")
    ratios = {way: median_ratio(seconds["teacher"], seconds[way]) for way in WAYS[1:]}
    print(
        f"against the running teacher: filling {ratios['filling']:.2f} times, cache "
        f"{ratios['cache']:.2f} times as fast (medians)"
    )
    return int(ratios["cache"] < options.at_least)


def _finish() -> None:
    """Wait until a GPU has done what was asked of it."""
    if paddle.get_device().startswith("gpu"):
        paddle.device.synchronize()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py distill", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--teacher", default="ResNet18_vd", help="a network of the zoo")
    parser.add_argument("--student", default="PPLCNet_x0_25", help="a network of the zoo")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=4, help="per round and contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu")
    parser.add_argument("--at-least", type=float, default=0.0, help="smallest ratio that passes")
    return parser
