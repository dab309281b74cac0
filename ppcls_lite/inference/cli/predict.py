"""`ppcls-lite predict`: predict images with an exported folder, from the command line.

The inputs are found before the network is loaded, and nothing is written before that. Each bad
image becomes an entry of its own and makes the exit status 1 when all others are done.
Read next: ../predictor.py, ../pipeline.py (many images at a time), resume.py (`--resume`).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import (
    add_engine_options,
    engine_arguments,
    not_negative,
    positive,
)
from ppcls_lite.inference.cli.origin import Origin, origin_of, require_origin, run_by
from ppcls_lite.inference.cli.output import (
    ResultFile,
    csv_columns,
    table_head,
    table_lines,
    writer,
)
from ppcls_lite.inference.cli.pictures import Pictures
from ppcls_lite.inference.cli.resume import Kept, keep
from ppcls_lite.inference.cli.tally import Tally
from ppcls_lite.inference.cli.video import Film, films_of, predict_films
from ppcls_lite.inference.engines import AUTO
from ppcls_lite.inference.inputs import find_images, labels_in
from ppcls_lite.inference.slices import Sliced
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.system.files import same_file
from ppcls_lite.system.machine import MAX_DEFAULT_THREADS, usable_cores
from ppcls_lite.system.outputs import output_folder
from ppcls_lite.system.terminal import printable

if TYPE_CHECKING:
    from ppcls_lite.inference.predictor import Predictor

TABLE_LIMIT = 20  # images shown when all results go to a file anyway
_MOST_OVERLAP = 0.9  # of two slices: a hundred times as many
BAD_LIMIT = 50  # unreadable files listed at the end
MANY = 64  # images that are worth starting threads and a process for
_STAGES = {
    "preprocess": "pre-processing",
    "inference": "inference",
    "postprocess": "post-processing",
}
# With a file for the results, a bar on a terminal; without one, the table shows how far it is.
_BAR: dict[bool, dict[str, Any]] = {True: {"disable": None}, False: {"disable": True}}


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0, or 1 if an image could not be read."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.resume and not args.output:
        parser.error("--resume needs --output, the file to go on with")
    if args.resume and args.save:
        parser.error("--resume goes on with --output only, not with --save")
    if films := films_of(args):
        return _predict_films(args, films)
    images = find_images(args.input)
    _refuse_inputs(args, images)
    kept = _keep(args) if args.resume else Kept()
    left = kept.others(images)
    _divide_cores(args, len(left))
    bad = kept.bad
    with contextlib.ExitStack() as stack:
        predictor = stack.enter_context(_load(args))
        if predictor.choice is not None:
            print(f"{predictor.choice}\n")
        file = None
        if args.output:
            model = predictor.choice.model if predictor.choice else args.model
            engine = predictor.engine
            origin = _origin(args, predictor.spec) | run_by(model, engine.name, engine.precision)
            if args.resume:
                require_origin(Path(args.output), origin)
            append = args.resume and bool(kept.files)
            results = ResultFile(args.output, predictor.postprocess, append, origin)
            file = stack.enter_context(results)
        pictures = Pictures(predictor.postprocess, args.draw, args.save_png, images)
        writes = [
            stack.enter_context(writer(predictor.postprocess, predictor.spec.labels, images, save))
            for save in args.save
        ]
        done = len(images) - len(left)
        bar = tqdm(total=len(images), initial=done, unit="image", **_BAR[bool(file)])
        stack.enter_context(bar)
        tally = Tally(predictor.postprocess, labels_in(args.input))
        watch = Stopwatch()
        tqdm.write(table_head(predictor.postprocess))
        seen = Sliced(predictor, args.slice, args.overlap) if args.slice else predictor
        stream = seen.stream(left, args.batch_size, True, watch, args.decode_threads)
        for count, result in enumerate(stream, start=1):
            if "error" in result:
                bad.append((result["file"], result["error"]))
            else:
                for write in writes:
                    write(result)
            tally.add(result)
            pictures.write(result)
            if file:
                file.write(result)
            if not file or count <= TABLE_LIMIT:
                tqdm.write("\n".join(table_lines(result, predictor.postprocess)))
            elif count == TABLE_LIMIT + 1:
                tqdm.write(f"... the other {len(left) - TABLE_LIMIT} only go to {file.path}")
            bar.update()
    print(f"\n{len(images)} images, {len(bad)} unreadable")
    if args.resume:
        print(f"{done} of them were in {args.output} already")
    for line in tally.summary():
        print(line)
    unit = "slice" if args.slice else "image"
    for line in watch.summary(_conditions(predictor, args), unit):
        print(line)
    for name, error in bad[:BAD_LIMIT]:
        print(printable(f"unreadable: {name}: {error}"))
    if len(bad) > BAD_LIMIT:
        print(f"... and {len(bad) - BAD_LIMIT} more, with `error` in the results")
    if file:
        print(f"results: {file.path}")
    for form, *paths in args.save:
        print(f"{form}: {paths[0]}")
    for folder in filter(None, (args.draw, args.save_png)):
        print(f"pictures: {folder}")
    return 1 if bad else 0


def _predict_films(args: argparse.Namespace, films: Sequence[Film]) -> int:
    _refuse_inputs(args, [film.path for film in films])
    _divide_cores(args, len(films))
    watch = Stopwatch()
    with contextlib.ExitStack() as stack:
        predictor = stack.enter_context(_load(args))
        file = None
        if args.output:
            results = ResultFile(
                args.output, predictor.postprocess, False, _origin(args, predictor.spec)
            )
            file = stack.enter_context(results)
        predict_films(predictor, films, file, args.draw, args.batch_size, watch)
        for line in watch.summary(_conditions(predictor, args), "frame"):
            print(line)
    for kind, place in (("results", args.output), ("videos", args.draw)):
        if place:
            print(f"{kind}: {place}")
    return 0


class Stopwatch:
    """Collects how long the stages took, per image; any thread may call it."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {stage: [] for stage in _STAGES}
        self._start = time.perf_counter()
        self._images = 0

    def __call__(self, stage: str, seconds: float, images: int) -> None:
        self._seconds[stage].append(seconds / images)
        self._images += images if stage == "preprocess" else 0

    def summary(self, conditions: str, unit: str = "image") -> list[str]:
        """Lines with median, 10th and 90th percentile in ms per `unit`; empty without a run."""
        if not self._seconds["inference"]:
            return []
        lines = [f"ms per {unit}, median (10 % to 90 %), {conditions}:"]
        for stage, seconds in self._seconds.items():
            if not seconds:
                continue
            low, middle, high = np.percentile(np.array(seconds) * 1e3, [10, 50, 90])
            lines.append(f"  {_STAGES[stage]:<15} {middle:8.2f}  ({low:.2f} to {high:.2f})")
        rate = self._images / (time.perf_counter() - self._start)
        return [*lines, f"  all together    {rate:8.1f}  {unit}s/s"]


def _refuse_inputs(args: argparse.Namespace, images: Sequence[Path]) -> None:
    """UserError if `--output` would overwrite a list or a picture that is read."""
    if not args.output or not Path(args.output).exists():
        return
    for source in itertools.chain(map(Path, args.input), images):
        if same_file(Path(args.output), source):
            raise UserError(
                f"--output {args.output}: is read as an input ({source}) and would be overwritten; "
                "name another file"
            )


def _keep(args: argparse.Namespace) -> Kept:
    """What `--output` holds, if the same network and options made it."""
    from ppcls_lite.inference.postprocess import build_postprocess

    output, spec = Path(args.output), InferenceSpec.read(args.model, args.plugins)
    spec = spec.answering(dict(args.set))
    origin = _origin(args, spec)
    if args.engine not in AUTO:  # what that chooses is compared when it has chosen
        origin |= run_by(args.model, args.engine, args.precision or "fp32")
    require_origin(output, origin)
    return keep(output, csv_columns(build_postprocess(spec)))


def _origin(args: argparse.Namespace, spec: InferenceSpec) -> Origin:
    sliced = {"slice": args.slice, "overlap": args.overlap if args.slice else None}
    options = sliced | {"topk": args.topk, "device": args.device, "onednn": not args.no_mkldnn}
    return origin_of(spec, options, args.plugins)


def _load(args: argparse.Namespace) -> Predictor:
    from ppcls_lite.inference.predictor import Predictor  # Paddle: a second that --help can spare

    # Paddle holds Python's lock while it runs, so decoding ahead needs it outside.
    isolate = args.batch_size if args.decode_threads and args.engine in ("paddle", *AUTO) else 0
    return Predictor(isolate=isolate, **engine_arguments(args))


def _divide_cores(args: argparse.Namespace, images: int) -> None:
    """Fill in the numbers of threads: many images are decoded ahead, with a share of the cores."""
    if args.decode_threads is None:
        args.decode_threads = max(1, usable_cores() // 2) if images >= MANY else 0
    if args.threads is None and args.decode_threads:
        args.threads = min(max(1, usable_cores() - args.decode_threads), MAX_DEFAULT_THREADS)


def _conditions(predictor: Predictor, args: argparse.Namespace) -> str:
    engine = predictor.engine
    ahead = f", {args.decode_threads} decoding ahead" if args.decode_threads else ""
    if engine.device == "gpu":
        return f"batch {args.batch_size}, gpu{ahead}"
    without = "" if getattr(engine, "mkldnn", True) else " without oneDNN"
    plural = "" if engine.threads == 1 else "s"
    what = f"{engine.name} {engine.precision}{without}"
    return f"batch {args.batch_size}, {engine.threads} thread{plural}, {what}{ahead}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite predict", description="Predict images with an exported network."
    )
    add_engine_options(parser)
    add = parser.add_argument
    text = "images, folders (searched recursively), text files with one path per line, or videos"
    add("--input", required=True, nargs="+", metavar="PATH", help=text)
    add("--output", metavar="FILE", help="write all results to this .jsonl or .csv file")
    add(
        "--draw",
        type=output_folder,
        metavar="DIR",
        help="write images, or videos, with their answers drawn on them into DIR",
    )
    text = "write answers that are pictures into DIR, as PNG files"
    add("--save-png", type=output_folder, metavar="DIR", help=text)
    text = "predict slices of N x N pixels, too: small objects in large photographs"
    add("--slice", type=positive, metavar="N", help=text)
    add("--overlap", type=_share, default=0.2, metavar="SHARE", help="of neighbouring slices (0.2)")
    text = "answers in a form that other tools read: coco FILE.json [ANNOTATION.json], yolo DIR"
    add("--save", action="append", default=[], nargs="+", metavar=("FORM", "PATH"), help=text)
    add("--resume", action="store_true", help="keep what --output holds and do only the rest")
    add("--batch-size", type=positive, default=1, metavar="N", help="images at once (1)")
    text = f"decode ahead of inference; 0: in turn (half of the cores from {MANY} images on)"
    add("--decode-threads", type=_count, metavar="N", help=text)
    return parser


def _share(text: str) -> float:
    value = not_negative(text)
    if value > _MOST_OVERLAP:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_OVERLAP}, found {text}")
    return value


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)
