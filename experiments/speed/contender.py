"""One contender of `benchmark.py table`, in a process of its own.

It gets ready, prints how many parameters its network has, and then runs one round for every line
on its standard input: `seconds: IMAGES WALL CPU`. Read before: table.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

READY, ANSWER = "ready:", "seconds:"  # a library's messages may stand between these lines
CLASSES = 1000
Round = Callable[[], tuple[int, float, float]]  # images, seconds by the clock, of the processor


def main(argv: list[str]) -> None:
    """The life of a contender."""
    options = parser().parse_args(argv)
    if options.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, options.cores)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        one_round, parameters = KINDS[options.kind](options)
        print(READY, parameters, flush=True)
        for _ in sys.stdin:
            with contextlib.redirect_stdout(io.StringIO()):  # the lines of a run
                images, wall, cpu = one_round()
            print(ANSWER, images, wall, cpu, flush=True)


def parser() -> argparse.ArgumentParser:
    """What table.py says to a contender."""
    options = argparse.ArgumentParser(prog="benchmark.py table (one contender)")
    options.add_argument("--kind", required=True, choices=sorted(KINDS))
    options.add_argument("--arch", required=True)
    options.add_argument("--cores", type=int, nargs="*")
    options.add_argument("--threads", type=int, required=True)
    options.add_argument("--data", help="a folder of JPEGs")
    for name in ("steps", "batch-size", "image-size", "rounds", "eval-images"):
        options.add_argument(f"--{name}", type=int, required=True)
    return options


def _stock(options: argparse.Namespace) -> tuple[Round, int]:
    from experiments.speed.train import bare_loop

    batches = _batches(options)
    return _measured(bare_loop(options.arch, batches), batches), _parameters(options.arch)


def _toolkit(options: argparse.Namespace) -> tuple[Round, int]:
    from ppcls_lite.system import cores

    cores.claim()  # of several processes each takes its share, before Paddle is imported
    from experiments.speed.train import toolkit_loop
    from ppcls_lite.engine import log
    from ppcls_lite.engine.distributed import connect

    batches = _batches(options)
    world = connect()
    log.setup(Path(options.folder), world.rank)
    loop = toolkit_loop(
        options.arch, batches, options.folder, options.rounds + 1, world, cpu_kernels="auto"
    )
    return _measured(loop, batches), _parameters(options.arch)


def _torch(options: argparse.Namespace) -> tuple[Round, int]:
    from experiments.speed.torch_pplcnet import loop

    sizes = (options.steps, options.batch_size, options.image_size)
    epoch, parameters = loop(scale_of(options.arch), CLASSES, *sizes, options.threads)
    return _timed(epoch, options.steps * options.batch_size), parameters


def _network(options: argparse.Namespace) -> tuple[Round, int]:
    from ppcls_lite.engine.evaluate import dygraph

    return _evaluation(options, dygraph)


def _graph(options: argparse.Namespace) -> tuple[Round, int]:
    from ppcls_lite.inference.graph_forward import GraphForward

    forward = GraphForward("inference", options.threads)
    one_round, parameters = _evaluation(options, forward)

    def checked() -> tuple[int, float, float]:
        measured = one_round()
        if forward.failed:
            raise RuntimeError(forward.failed)
        return measured

    return checked, parameters


def _evaluation(options: argparse.Namespace, forward: Callable) -> tuple[Round, int]:
    """Whole evaluations, with what making a predictor costs."""
    from experiments.speed.train import Batches
    from ppcls_lite.engine.evaluate import Evaluator
    from ppcls_lite.engine.tasks import Supervised
    from ppcls_lite.metrics.topk import TopkAcc
    from ppcls_lite.models.create import create_model

    model = create_model(options.arch, class_num=CLASSES)
    steps = max(1, options.eval_images // options.batch_size)
    batches = Batches(steps, options.batch_size, options.image_size)
    task = Supervised(model, None)
    evaluator = Evaluator(task, batches, [TopkAcc([1, 5])], forward=forward)
    return _timed(lambda: evaluator.run(), steps * options.batch_size), _parameters(options.arch)


def _naive(options: argparse.Namespace) -> tuple[Round, int]:
    from experiments.speed import data

    source = data.training_set(_images(options))
    numbers = iter(range(options.rounds + 1))
    return _timed(lambda: data.naive(source, options.batch_size, next(numbers)), len(source)), 0


def _chain(options: argparse.Namespace, cached: bool = False, **decode: bool) -> tuple[Round, int]:
    from experiments.speed import data
    from ppcls_lite.data import cache

    source = data.training_set(_images(options), **decode)
    if cached:
        source.keep_decoded(cache.in_memory(source.paths))
    epoch, numbers = data.epochs(source, options.batch_size, 0), iter(range(options.rounds + 1))
    return _timed(lambda: epoch(next(numbers)), len(source)), 0


KINDS: dict[str, Callable[[argparse.Namespace], tuple[Round, int]]] = {
    "stock": _stock,
    "toolkit": _toolkit,
    "torch": _torch,
    "network": _network,
    "graph": _graph,
    "naive": _naive,
    "chain": _chain,
    "reduced": lambda options: _chain(options, reduced=True),
    "cached": lambda options: _chain(options, cached=True),
}


def scale_of(arch: str) -> float | None:
    """The width in a name such as PPLCNet_x0_5; None for another network."""
    family, _, scale = arch.partition("_x")
    return float(scale.replace("_", ".")) if family == "PPLCNet" and scale else None


def _batches(options: argparse.Namespace) -> Any:
    import paddle

    from experiments.speed.train import Batches

    paddle.set_device("cpu")
    return Batches(options.steps, options.batch_size, options.image_size)


def _parameters(arch: str) -> int:
    from ppcls_lite.models.create import create_model

    model = create_model(arch, class_num=CLASSES)
    return sum(int(p.size) for p in model.parameters() if not p.stop_gradient)


def _images(options: argparse.Namespace) -> list[str]:
    import cv2

    cv2.setNumThreads(0)
    return sorted(str(path) for path in Path(options.data).iterdir())


def _measured(epoch: Callable[[], None], batches: Any) -> Round:
    def one() -> tuple[int, float, float]:
        epoch()
        return batches.images, batches.cost.wall, batches.cost.cpu

    return one


def _timed(work: Callable[[], object], images: int) -> Round:
    def one() -> tuple[int, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return images, time.perf_counter() - wall, time.process_time() - cpu

    return one


if __name__ == "__main__":
    main(sys.argv[1:])
