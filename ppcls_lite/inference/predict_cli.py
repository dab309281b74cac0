"""`ppcls-lite predict`: classify images with an exported folder, from the command line.

The inputs are found before the network is loaded, and nothing is written before that. Each bad
image becomes an entry of its own and makes the exit status 1 when all others are done.
Read next: predictor.py.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.output import ResultFile, table_head, table_lines

if TYPE_CHECKING:
    from ppcls_lite.inference.predictor import Predictor

TABLE_LIMIT = 20  # images shown when all results go to a file anyway


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0, or 1 if an image could not be read.

    Raises:
        UserError: a wrong argument, no input, or a folder that is not an exported model.
    """
    args = _parser().parse_args(argv)
    images = find_images(args.input)
    with contextlib.ExitStack() as stack:
        predictor = _load(args)
        file = stack.enter_context(ResultFile(args.output)) if args.output else None
        watch = Stopwatch()
        bad = 0
        print(table_head())
        stream = predictor.stream(images, args.batch_size, keep_going=True, observe=watch)
        for count, result in enumerate(stream, start=1):
            bad += "error" in result
            if file:
                file.write(result)
            if not file or count <= TABLE_LIMIT or "error" in result:
                print(*table_lines(result), sep="\n", flush=True)
            elif count == TABLE_LIMIT + 1:
                print(f"... the other {len(images) - TABLE_LIMIT} only go to {file.path}")
    print(f"\n{len(images)} images, {bad} unreadable")
    print(*watch.summary(_conditions(predictor, args.batch_size)), sep="\n")
    if file:
        print(f"results: {file.path}")
    return 1 if bad else 0


class Stopwatch:
    """Collects how long pre-processing and inference took, per image."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {"preprocess": [], "inference": []}

    def __call__(self, stage: str, seconds: float, images: int) -> None:
        self._seconds[stage].append(seconds / images)

    def summary(self, conditions: str) -> list[str]:
        """Lines with median, 10th and 90th percentile in ms per image; empty without a run."""
        if not self._seconds["inference"]:
            return []
        lines = [f"ms per image, median (10 % to 90 %), {conditions}:"]
        for stage, seconds in self._seconds.items():
            low, middle, high = np.percentile(np.array(seconds) * 1e3, [10, 50, 90])
            name = "pre-processing" if stage == "preprocess" else stage
            lines.append(f"  {name:<14} {middle:8.2f}  ({low:.2f} to {high:.2f})")
        return lines


def _load(args: argparse.Namespace) -> Predictor:
    from ppcls_lite.inference.predictor import Predictor  # Paddle: a second that --help can spare

    return Predictor(
        args.model,
        args.device,
        not args.no_mkldnn,
        args.threads,
        args.topk,
        args.engine,
        args.precision,
    )


def _conditions(predictor: Predictor, batch_size: int) -> str:
    engine = predictor.engine
    if engine.device == "gpu":
        return f"batch {batch_size}, gpu"
    without = "" if getattr(engine, "mkldnn", True) else " without oneDNN"
    plural = "" if engine.threads == 1 else "s"
    what = f"{engine.name} {engine.precision}{without}"
    return f"batch {batch_size}, {engine.threads} thread{plural}, {what}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite predict", description="Classify images with an exported network."
    )
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="what deploy/export.py wrote")
    add(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, folders (searched recursively), or text files with one path per line",
    )
    add("--output", metavar="FILE", help="write all results to this .jsonl or .csv file")
    add("--batch-size", type=_positive, default=1, metavar="N", help="images at once (1)")
    add("--topk", type=_positive, metavar="K", help="classes per image (as exported)")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="(cpu)")
    add("--engine", choices=("paddle", "openvino", "onnxruntime", "auto"), default="paddle")
    add("--precision", choices=("fp32", "bf16", "int8"), help="(fp32; auto: the fastest right one)")
    add("--threads", type=_positive, metavar="N", help="CPU threads (usable cores, at most 4)")
    add("--no-mkldnn", action="store_true", help="run without oneDNN (MKLDNN): slower, to compare")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)
