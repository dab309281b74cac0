"""What the answer costs with many classes: in the program, or from coarse scores.

    python -m experiments.segmentation.many_classes --weights WEIGHTS --images FOLDER

One DeepLabV3+ is exported twice for images of 1024 x 512 (width, height): with its classes, which
the program finds by enlarging the scores of all of them, and with `output: coarse`, whose scores
are enlarged afterwards where classes meet. Whole predictions of decoded images are measured in
turns, and their maps compared pixel by pixel. Weights have to be trained: of a network of noise
every pixel is an edge. Read before: ../../ppcls_lite/ops/enlarging.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppcls_lite.cli import guarded
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.inference.engines import available_engines
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess.run_lengths import decode_map
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.models.create import create_model
from ppcls_lite.system.timing import in_turns

OUTPUTS = ("classes", "coarse")
NORMAL = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}


def run(argv: Sequence[str]) -> int:
    """Measure and print; exit status 1 where a map differs."""
    args = _parser().parse_args(argv)
    width, height = args.size
    paths = sorted(Path(args.images).iterdir())[: args.rounds]
    if not paths:
        raise UserError(f"{args.images}: expected images, found none")
    images = [cv2.resize(cv2.imread(str(path))[..., ::-1], (width, height)) for path in paths]
    model = create_model(args.arch, class_num=args.classes, pretrained=args.weights)
    model.eval()
    engines = [n for n in ("paddle", "openvino") if available_engines()[n] is None]
    equal = True
    with tempfile.TemporaryDirectory() as temporary:
        for output in OUTPUTS:
            export_model(
                model,
                Path(temporary, output),
                (3, height, width),
                [{"NormalizeImage": NORMAL}],
                {"Segmentation": {"output": output}},
                sample_images=images[:1],
                format="both",
            )
        for engine in engines:
            equal &= _compare(engine, Path(temporary), images)
    return int(not equal)


def _compare(engine: str, folder: Path, images: Sequence[np.ndarray]) -> bool:
    """Print what an engine takes both ways; whether the maps are equal."""
    predictors = {name: Predictor(folder / name, engine=engine, threads=1) for name in OUTPUTS}
    turns = {name: _turn(predictor, images) for name, predictor in predictors.items()}
    found = in_turns(turns, len(images))
    seconds = {name: [spent for spent, _ in results] for name, results in found.items()}
    pairs = list(zip(*([mask for _, mask in results] for results in found.values())))
    differing = sum(int((one != two).sum()) for one, two in pairs)
    pixels = sum(one.size for one, _ in pairs)
    kinds = statistics.fmean(len(np.unique(one)) for one, _ in pairs)
    ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(one / two for one, two in zip(*seconds.values()))
    print(
        f"{engine}, one thread, ms of processor time an image: classes in the program "
        f"{ms['classes']:.0f}, from coarse scores {ms['coarse']:.0f}: {ratio:.2f} times as fast; "
        f"{differing:,} of {pixels:,} pixels differ; {kinds:.1f} classes an image"
    )
    return differing <= 1e-5 * pixels  # two classes that are equal but for rounding


def _turn(predictor: Predictor, images: Sequence[np.ndarray]) -> Any:
    """A function that predicts the next image: its processor time and its map."""
    number = 0

    def turn() -> tuple[float, np.ndarray]:
        nonlocal number
        image = images[number % len(images)]
        number += 1
        before = time.process_time()
        (result,) = predictor.predict(image)
        return time.process_time() - before, decode_map(result["mask"])

    return turn


def _parser() -> argparse.ArgumentParser:
    text = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="experiments.segmentation.many_classes", description=text)
    parser.add_argument("--arch", default="deeplabv3p_PPLCNet_x0_5", help="a network of the zoo")
    parser.add_argument("--classes", type=positive, default=150, help="that the weights know")
    parser.add_argument("--weights", required=True, help="of a trained network")
    parser.add_argument("--images", required=True, help="a folder of photographs")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 512), metavar=("W", "H"))
    parser.add_argument("--rounds", type=positive, default=7, help="turns, and images, of each")
    return parser


if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
