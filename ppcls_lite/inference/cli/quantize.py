"""`ppcls-lite quantize`: int8 for an exported network, and what that costs, from the command line.

Read next: ../quantize/int8.py.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import add_plugins, positive, thread_count
from ppcls_lite.inference.inputs import find_images, read_labelled
from ppcls_lite.system.machine import default_threads

Item = TypeVar("Item")
_TRIED = 64  # images that show what the ids of a list count from

if TYPE_CHECKING:
    from ppcls_lite.inference.quantize.report import Evaluation, Labelled
    from ppcls_lite.inference.spec import InferenceSpec


def run(
    argv: Sequence[str], evaluation_of: Callable[[InferenceSpec, Labelled | str], Evaluation]
) -> int:
    """Run the command; returns 0. `evaluation_of` scores by labelled images, or by a recipe."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ppcls_lite.inference.preprocess import Preprocessor, alike
    from ppcls_lite.inference.quantize import int8, report
    from ppcls_lite.inference.spec import InferenceSpec

    int8.refuse_existing(args.model)
    spec = InferenceSpec.read(args.model, args.plugins)
    spec.check_files(args.model)
    prepare = Preprocessor.of(spec)
    calibration = _spread(find_images(args.calibration, "--calibration"), args.images)
    source = args.config or read_labelled(args.evaluate, "--evaluate")
    evaluation = evaluation_of(spec, source)
    _require_files(calibration, "--calibration")
    _require_files(evaluation.paths, args.config or f"--evaluate {args.evaluate}")
    shared = {path.resolve() for path in calibration} & {p.resolve() for p in evaluation.paths}
    if shared:
        raise UserError(
            f"--calibration and the evaluation share {len(shared)} images, e.g. {min(shared)}; the "
            "score must be measured on images that calibration has not seen"
        )
    images = alike([prepare(path).array for path in calibration])
    with tempfile.TemporaryDirectory(prefix="ppcls_lite-int8-") as name:
        room = Path(name)
        before = int8.float_model(args.model, spec, room)
        if not args.config:
            _require_ids(source, args.evaluate, _class_num(before, spec, images[0]))
            run = int8.runner_of(before, spec)

            def score(labelled: Labelled) -> float:
                return next(iter(evaluation_of(spec, labelled).scores(run).values()))

            _require_from_zero(score, source, args.evaluate)
        after, tried = int8.quantize(before, spec, images, room, args.keep_float)
        found = report.measure(
            *(before, after, spec, evaluation, images[0][None]),
            *(tried[0].name, len(tried[0].layers), len(images), args.threads or default_threads()),
        )
        written = int8.keep(args.model, spec, after, found)
    print(*found.lines(), sep="\n")
    print(f"written: {written}")
    return 0


def _require_files(paths: Sequence[str | Path], source: str) -> None:
    """UserError for the first image that is not there, before any work."""
    missing = [path for path in map(Path, paths) if not path.is_file()]
    if missing:
        raise UserError(f"{source}: {len(missing)} images are no files, e.g. {missing[0]}")


def _class_num(model: Path, spec: InferenceSpec, image: np.ndarray) -> int:
    """How many classes the network of an ONNX file gives an image (C, H, W)."""
    from ppcls_lite.inference.quantize.int8 import outputs_of

    return next(iter(outputs_of(model, spec, [image]).values())).shape[-1]


def _require_ids(labelled: Labelled, source: Path, class_num: int) -> None:
    """UserError if the list's ids are not those of a network with so many classes."""
    wrong = [(path, label) for path, label in labelled if label >= class_num]
    if wrong:
        path, label = wrong[0]
        least = min(label for _, label in labelled)
        one_based = least == 1 and max(label for _, label in labelled) == class_num
        hint = "; these seem to count from 1: subtract 1 from each" if one_based else ""
        raise UserError(
            f"--evaluate {source}: {path} has the class id {label}, but the network has "
            f"{class_num} classes, 0 .. {class_num - 1}{hint}"
        )


def _require_from_zero(
    score: Callable[[Labelled], float], labelled: Labelled, source: Path
) -> None:
    """UserError if the ids of a list without 0 fit the network better when they count from 1."""
    if min(label for _, label in labelled) == 0:
        return
    some = _spread(list(labelled), _TRIED)
    right, less = score(some), score([(path, label - 1) for path, label in some])
    if less > right:
        raise UserError(
            f"--evaluate {source}: no image has the class id 0, and {less:.0%} of the network's "
            f"answers are the ids less 1 but {right:.0%} are the ids: these seem to count from 1; "
            "subtract 1 from each"
        )


def _spread(paths: list[Item], count: int) -> list[Item]:
    """`count` of the paths, evenly spread, so that lists sorted by class give all classes."""
    if len(paths) <= count:
        return paths
    return [paths[index] for index in np.linspace(0, len(paths) - 1, count).astype(int)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite quantize",
        description="Add inference_int8.onnx to an exported folder and say what it costs.",
    )
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="what ppcls-lite export wrote")
    text = "real images like those of later use, from training: files, folders or lists"
    add("--calibration", required=True, nargs="+", metavar="PATH", help=text)
    scored = parser.add_mutually_exclusive_group(required=True)
    text = "a text file of `path class_id` lines; top-1 is measured on these images"
    scored.add_argument("--evaluate", type=Path, metavar="LIST", help=text)
    text = "or a recipe: its first metric is measured on DataLoader.Eval"
    scored.add_argument("-c", "--config", metavar="RECIPE", help=text)
    add_plugins(parser)
    add("--images", type=positive, default=256, metavar="N", help="calibration images (256)")
    kinds = ("auto", "none", "ends", "se", "ends+se")
    text = "layers that stay in float: none, first and last, squeeze-and-excitation (auto)"
    add("--keep-float", choices=kinds, default="auto", help=text)
    add(
        "--threads", type=thread_count, metavar="N", help="of the latency (usable cores, at most 4)"
    )
    return parser
