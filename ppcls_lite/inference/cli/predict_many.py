"""`ppcls-lite predict-many`: answers to a list of millions, by many processes or machines.

The processes are of this machine, or tasks of Ray Data on a cluster; both run `predict_block`. The
same command goes on where an earlier one ended, however that was; nothing is done twice.
Read before: blocks.py. Read next: predict.py, for what fits one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ppcls_lite.errors import TryAgainError, UserError
from ppcls_lite.inference.cli.blocks import Block, Done, Job, cut_list, predict_block
from ppcls_lite.inference.cli.options import add_engine_options, engine_arguments, positive
from ppcls_lite.inference.cli.origin import claim_folder, origin_of, run_by, sole_writer
from ppcls_lite.inference.engines import AUTO
from ppcls_lite.inference.inputs import LIST_SUFFIXES
from ppcls_lite.system.installed import require
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.outputs import output_folder
from ppcls_lite.system.processes import end_with_parent, environment, held_ctrl_c, take_ctrl_c
from ppcls_lite.system.terminal import printable

EXAMPLES = 50  # unreadable files that are named at the end
_AGAIN = "what is done stays, and the same command does the rest"


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0, or 1 if an image could not be read."""
    args = _parser().parse_args(argv)
    if args.engine in AUTO:
        raise UserError(
            f"--engine {args.engine}: measures while nothing else runs; name the engine that "
            "`ppcls-lite predict --engine auto` chooses"
        )
    if args.ray:
        require("ray")
    blocks, digest = cut_list(args.input, args.block, "--input")
    options = {**engine_arguments(args), "model_dir": str(args.model)}
    origin = {"list": digest, "block": args.block} | _origin(args, options)
    claim_folder(args.output, origin)
    job = Job(
        *(str(args.input), str(args.output), str(Path.cwd()), json.dumps(options), args.batch_size)
    )
    with sole_writer(args.output):
        return _predict(args, job, blocks)


def _predict(args: argparse.Namespace, job: Job, blocks: Sequence[Block]) -> int:
    """Do the blocks that are left, and say what was done."""
    count = args.processes or max(1, usable_cores() // args.threads)
    if args.ray:
        parts = on_ray(job, blocks, args.ray, args.processes, args.threads)
    else:
        parts = in_processes(job, blocks, min(count, len(blocks)))
    start, done = time.perf_counter(), []
    with tqdm(total=len(blocks), unit="block", disable=None) as bar:
        for part in parts:
            done.append(part)
            bar.update()
    job.clear()
    made = sum(part.images for part in done if part.made)
    images, bad = sum(part.images for part in done), sum(part.unreadable for part in done)
    print(f"{images:,} images in {len(done):,} blocks, {bad:,} unreadable")
    if made < images:
        print(f"{images - made:,} of them were in {args.output} already")
    if made:
        seconds = time.perf_counter() - start
        print(f"{made:,} in {seconds:.1f} s, the start included: {made / seconds:.1f} images/s")
    for example in [part.example for part in done if part.example][:EXAMPLES]:
        print(printable(f"unreadable: {example}"))
    print(f"results: {job.part(0)}" + (f" to {job.part(len(blocks) - 1)}" * (len(blocks) > 1)))
    return 1 if bad else 0


def in_processes(job: Job, blocks: Sequence[Block], count: int) -> Iterator[Done]:
    """Do the blocks in so many processes of this machine, in any order.

    TryAgainError if one of them is killed.
    """
    context = multiprocessing.get_context("spawn")  # Paddle is no friend of fork
    pool = ProcessPoolExecutor(count, context, _begin, (os.getpid(),))
    try:
        with held_ctrl_c():
            futures = [pool.submit(predict_block, job, block) for block in blocks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        for process in multiprocessing.active_children():  # SIGTERM does not end each of them
            process.kill()
        raise TryAgainError(
            f"a process was killed, perhaps for lack of memory (fewer --processes); {_AGAIN}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """End with the command, and by Ctrl-C as silently as it does."""
    end_with_parent(parent=parent)
    take_ctrl_c()


def on_ray(
    job: Job, blocks: Sequence[Block], address: str, count: int | None, threads: int
) -> Iterator[Done]:
    """Do the blocks on a cluster of Ray, `count` at a time (None: as many as it has cores for).

    Each is a task of Ray Data, which gives those of a lost process or machine to others.
    UserError where no cluster answers.
    """
    import ray
    import ray.data
    from ray.exceptions import RayTaskError

    try:
        if address != "auto":  # else Ray tries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        found = {"env_vars": environment({})}  # this package, where it is a checkout too
        ray.init(address, runtime_env=found, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"--ray {address}: no cluster answers ({error}); expected auto or HOST:PORT of one, "
            "which `ray start --head` starts"
        ) from error
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [block._asdict() for block in blocks]
        tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            partial(_as_row, job), num_cpus=threads, concurrency=count
        )
        for row in tasks.iter_rows():
            yield Done(**row)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise type(error.cause)(str(error.cause)) from None
        raise
    finally:
        ray.shutdown()


def _as_row(job: Job, row: dict[str, Any]) -> dict[str, Any]:
    return predict_block(job, Block(**row))._asdict()


def _origin(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """What the answers depend on; mistakes in the network or the options show here."""
    from ppcls_lite.inference.predictor import Predictor  # Paddle: a second that --help can spare

    with Predictor(**options) as predictor:
        engine, spec = predictor.engine, predictor.spec
        asked = {"topk": args.topk, "device": args.device, "onednn": not args.no_mkldnn}
        by = run_by(args.model, engine.name, engine.precision)
        return origin_of(spec, asked, args.plugins) | by


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite predict-many",
        description="Predict a list of millions of images, by many processes or machines.",
    )
    add_engine_options(parser, threads=1)
    add = parser.add_argument
    text = "a text file with one path per line"
    add("--input", required=True, type=_list, metavar="LIST", help=text)
    text = "the folder of answers, part-000000.jsonl and so on; the same again goes on there"
    add("--output", required=True, type=output_folder, metavar="DIR", help=text)
    text = "lines that become one file of answers (1000)"
    add("--block", type=positive, default=1000, metavar="N", help=text)
    add("--batch-size", type=positive, default=1, metavar="N", help="images at once (1)")
    text = "blocks at work at a time, with --threads each (as many as there are cores for)"
    add("--processes", type=positive, metavar="N", help=text)
    text = "use the cluster of Ray at this address (auto: the one of this machine); extra: .[ray]"
    add("--ray", nargs="?", const="auto", metavar="ADDRESS", help=text)
    return parser


def _list(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in LIST_SUFFIXES:
        suffixes = ", ".join(LIST_SUFFIXES)
        raise argparse.ArgumentTypeError(f"expected a list ({suffixes}), found {text[:80]!r}")
    return path
