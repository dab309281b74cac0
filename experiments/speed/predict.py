"""How well decoding and inference overlap: `tools/benchmark.py predict`.

Contenders, one after another in every round so that a busy machine slows all of them alike:

- decode:    the images through pre-processing, by the decode threads alone;
- inference: ready batches through the engine alone, in this process;
- streamed:  both, as `deploy/predict.py` does it;
- command:   with `--command`, `ppcls-lite predict` itself on a folder of the images, with a file of
  results, from its first image to its last.

Aim: the last of these >= 95 % of the slower of the first two. That can be met only where each has
cores of its own: decode threads + inference threads <= cores. `--soak N` then streams N images and
prints the memory of both processes at every tenth. Read next: inference/pipeline.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from experiments.speed.data import generate
from ppcls_lite.inference.cli import predict as command
from ppcls_lite.inference.cli.options import add_engine_options, engine_arguments, positive
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.pipeline import ahead, batched
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.timing import in_turns

AIM = 0.95
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def run(argv: Sequence[str]) -> int:
    """The command line; returns 0, or 1 if the aim is missed.

    Raises:
        UserError: no images where `--data` points, or no exported folder at `--model`.
    """
    options = argparse.ArgumentParser(
        prog="benchmark.py predict", description=__doc__.split("\n")[0]
    )
    add_engine_options(options)
    add = options.add_argument
    add("--data", metavar="DIR|LIST", help="JPEGs; default: generated ones")
    add("--images", type=positive, default=256, help="images a round (%(default)s)")
    add("--batch-size", type=positive, default=8, help="(%(default)s)")
    add("--decode-threads", type=positive, default=1, help="(%(default)s)")
    add("--rounds", type=positive, default=5, help="(%(default)s)")
    add("--command", action="store_true", help="run ppcls-lite predict on a folder of the images")
    add("--soak", type=positive, metavar="N", help="stream N images and watch the memory")
    args = options.parse_args(argv)
    args.threads = args.threads or 1
    with tempfile.TemporaryDirectory() as folder:
        if args.data:
            found = find_images([args.data], "--data")
        else:
            found = [Path(path) for path in generate(Path(folder), min(args.images, 64))]
        paths = _folder_of(found, args.images, Path(folder) / "images")
        with Predictor(isolate=args.batch_size, **engine_arguments(args)) as isolated:
            met = _compare(Predictor(**engine_arguments(args)), isolated, paths, args)
            if args.soak:
                many = (found[i % len(found)] for i in range(args.soak))
                soak(isolated, many, args)
    return 0 if met else 1


def _folder_of(found: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """`count` files in a folder of their own: links to those that were found, in turn."""
    folder.mkdir()
    links = []
    for i in range(count):
        source = found[i % len(found)].resolve()
        links.append(folder / f"{i:06d}{source.suffix}")
        links[-1].symlink_to(source)
    return links


def _commanded(paths: Sequence[Path], args: argparse.Namespace) -> float:
    """Images a second of `ppcls-lite predict` on a folder, as it says itself."""
    folder = paths[0].parent
    with contextlib.redirect_stdout(io.StringIO()) as shown, tempfile.TemporaryDirectory() as room:
        options = ["--model", args.model, "--engine", args.engine, "--threads", args.threads]
        options += ["--batch-size", args.batch_size, "--decode-threads", args.decode_threads]
        options += ["--precision", args.precision] if args.precision else []
        options += ["--input", folder, "--output", Path(room) / "results.jsonl"]
        command.run([str(option) for option in options])
    return float(re.findall(r"all together +([\d.]+) +images/s", shown.getvalue())[-1])


def _compare(
    alone: Predictor, isolated: Predictor, paths: list[Path], args: argparse.Namespace
) -> bool:
    arrays = [alone.preprocess(path) for path in paths[:64]]  # (C, H, W) each
    batches = [
        np.stack([arrays[i % len(arrays)] for i in range(start, start + args.batch_size)])
        for start in range(0, len(arrays), args.batch_size)
    ]
    count = len(paths) // args.batch_size
    stream = partial(isolated.stream, decode_threads=args.decode_threads)
    contenders: dict[str, Callable[[], int | float]] = {
        "decode": lambda: sum(1 for _ in _decoded(alone, paths, args.decode_threads)),
        "inference": lambda: sum(
            len(alone.predict_batch(batches[i % len(batches)])) for i in range(count)
        ),
        "streamed": lambda: sum(1 for _ in stream(paths, args.batch_size)),
    }
    if args.command:
        contenders["command"] = lambda: _commanded(paths, args)
    print(
        f"{len(paths)} images, batches of {args.batch_size}, {args.decode_threads} decode and "
        f"{args.threads} inference threads on {usable_cores()} cores; {args.rounds} rounds, medians"
    )

    def turn(contender: Callable[[], int | float]) -> tuple[float, float]:
        """Images a second, and milliseconds of processor an image."""
        start, used = time.perf_counter(), _processor_time(isolated.engine.pid)
        made = contender()
        passed, spent = time.perf_counter() - start, _processor_time(isolated.engine.pid) - used
        # The command tells its rate itself, since it loads the network first.
        return made if isinstance(made, float) else made / passed, 1e3 * spent / len(paths)

    found = in_turns({name: partial(turn, c) for name, c in contenders.items()}, args.rounds)
    for name, values in found.items():
        rate, cost = map(statistics.median, zip(*values))
        print(f"{name:10}{rate:9.1f} images/s {cost:8.2f} ms of processor time per image")
    last = list(contenders)[-1]
    ratio = statistics.median(
        whole / min(decoding, running)
        for (decoding, _), (running, _), (whole, _) in zip(
            found["decode"], found["inference"], found[last], strict=True
        )
    )
    verdict = "met" if ratio >= AIM else "missed"
    print(f"{last} against the slower of the two: {ratio:.1%}, aim {AIM:.0%}: {verdict}")
    return ratio >= AIM


def _decoded(predictor: Predictor, paths: list[Path], threads: int) -> Iterator[object]:
    return ahead(predictor.preprocess, paths, threads, 4 * threads)


def soak(predictor: Predictor, images: Iterator[Path], args: argparse.Namespace) -> None:
    """Stream the images; print images/s and the memory of this process and the engine's."""
    results = predictor.stream(images, args.batch_size, decode_threads=args.decode_threads)
    start = time.perf_counter()
    done = 0
    print(f"{'images':>10}{'images/s':>10}{'MiB here':>10}{'MiB engine':>12}")
    for part in batched(results, max(1, args.soak // 10)):
        done += len(part)
        here, engine = (_memory(pid) for pid in (os.getpid(), predictor.engine.pid))
        print(f"{done:10}{done / (time.perf_counter() - start):10.1f}{here:10.0f}{engine:12.0f}")


def _processor_time(engine: int) -> float:
    """Seconds of this process and the engine's; without /proc, of this one alone."""
    path = Path(f"/proc/{engine}/stat")
    if not path.exists():
        return time.process_time()
    fields = path.read_text().rpartition(")")[2].split()  # proc(5): utime and stime are 14 and 15
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    """MiB in RAM of a process; nan where there is no /proc."""
    statistics_of = Path(f"/proc/{pid}/statm")
    if not statistics_of.exists():
        return float("nan")
    return int(statistics_of.read_text().split()[1]) * _PAGE / 2**20
