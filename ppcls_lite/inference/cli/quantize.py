"""`ppcls-lite quantize`: int8 for an exported network, and what that costs, from the command line.

Read next: ../quantize/int8.py.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import add_plugins
from ppcls_lite.inference.inputs import find_images, read_labelled
from ppcls_lite.system.machine import default_threads

if TYPE_CHECKING:
    from ppcls_lite.inference.quantize.report import Evaluation, Labelled
    from ppcls_lite.inference.spec import InferenceSpec


def run(
    argv: Sequence[str], evaluation_of: Callable[[InferenceSpec, Labelled | str], Evaluation]
) -> int:
    """Run the command; returns 0. `evaluation_of` scores by labelled images, or by a recipe."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ppcls_lite.inference.engines.files import ONNX_NAMES, find_onnx
    from ppcls_lite.inference.preprocess import Preprocessor
    from ppcls_lite.inference.quantize import int8 as quantize
    from ppcls_lite.inference.quantize import report as quantize_report
    from ppcls_lite.inference.spec import InferenceSpec

    quantize.refuse_existing(args.model)
    spec = InferenceSpec.read(args.model, args.plugins)
    spec.check_files(args.model)
    prepare = Preprocessor.of(spec)
    calibration = _spread(find_images(args.calibration, "--calibration"), args.images)
    source = args.config or read_labelled(args.evaluate, "--evaluate")
    evaluation = evaluation_of(spec, source)
    shared = {path.resolve() for path in calibration} & {p.resolve() for p in evaluation.paths}
    if shared:
        raise UserError(
            f"--calibration and the evaluation share {len(shared)} images, e.g. {min(shared)}; the "
            "score must be measured on images that calibration has not seen"
        )
    images = [prepare(path).array for path in calibration]
    tried = quantize.quantize(args.model, spec, images, args.keep_float)
    with tempfile.TemporaryDirectory(prefix="ppcls_lite-int8-") as room:
        before = quantize.float_model(args.model, spec, Path(room))
        report = quantize_report.measure(
            *(before, args.model / ONNX_NAMES["int8"], spec, evaluation, images[0][None]),
            *(tried[0].name, len(tried[0].layers), len(images), args.threads or default_threads()),
        )
    quantize.note_report(args.model, spec, report)
    print(*report.lines(), sep="\n")
    print(f"written: {find_onnx(args.model, 'int8')}")
    return 0


def _spread(paths: list[Path], count: int) -> list[Path]:
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
    add("--images", type=int, default=256, metavar="N", help="calibration images (256)")
    kinds = ("auto", "none", "ends", "se", "ends+se")
    text = "layers that stay in float: none, first and last, squeeze-and-excitation (auto)"
    add("--keep-float", choices=kinds, default="auto", help=text)
    add("--threads", type=int, metavar="N", help="of the latency (usable cores, at most 4)")
    return parser
