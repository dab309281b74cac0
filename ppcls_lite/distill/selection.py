"""`ppcls-lite select`: the command that chooses unlabelled images.

    ppcls-lite select TEACHER POOL --val LIST --top 4000 --output DIR

A second run with the same arguments goes on where the first one stopped; with another `--top` it
chooses again from the scores that are there. Read next: select_unlabeled.py (what happens),
inference_model.py (the teacher).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.data.near_duplicates import BITS, DISTANCE
from ppcls_lite.distill.inference_model import InferenceModel
from ppcls_lite.distill.select_unlabeled import (
    BAD,
    DUPLICATES,
    list_path,
    pool_at,
    score_pool,
    select,
)
from ppcls_lite.engine import device, run_folder
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive, thread_count
from ppcls_lite.inference.preprocess import Preprocessor
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.system.outputs import output_folder

IMAGENET_EVALUATION = (
    {"DecodeImage": {}},
    {"ResizeImage": {"resize_short": 256}},
    {"CropImage": {"size": 224}},
    {"NormalizeImage": {"order": ""}},
)


class Teacher:
    """Scores images with an exported folder or an ONNX file (a `Scorer`).

    `config` is a recipe whose `Infer.transforms` an ONNX file wants; None: ImageNet's evaluation.
    """

    def __init__(self, path: str, config: str | None = None, threads: int | None = None) -> None:
        is_onnx = Path(path).suffix.lower() == ".onnx"
        if config and not is_onnx:
            raise UserError(f"--config: {path} has its own pre-processing; leave the option out")
        ops: Sequence[Any] = IMAGENET_EVALUATION
        if config:
            ops = (Recipe.of(load_config(config)).tree.get("Infer") or {}).get("transforms")
            if not ops:
                raise UserError(f"{config}: has no Infer.transforms, which say what the file wants")
        if not is_onnx:
            ops = InferenceSpec.read(Path(path)).transform_ops
        self._preprocess = Preprocessor(ops)
        self._model = InferenceModel(path, threads=threads)
        self.identity = f"{self._model.checksum()} {ops}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return self._preprocess(image).array

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        logits = self._model(paddle.to_tensor(batch))
        return paddle.nn.functional.softmax(logits).numpy()


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(argv)
    output = options.output
    list_path(output, options.top)  # before hours of scoring
    device.select(options.device)
    pool = pool_at(options.pool, options.root)
    validation = pool_at(options.val, options.val_root) if options.val else None
    teacher = Teacher(options.teacher, options.config, options.threads)
    settings = options.distance, options.batch_size, options.workers
    with run_folder.claimed(output, "a selection", "--output DIR"):
        score_pool(pool, teacher, output, validation, *settings)
        target, counts = select(output, options.top, options.distance, options.keep_twins)
    print(
        f"{counts['images']:,} images: {counts['near_duplicates']:,} near-duplicates of the "
        f"validation set ({output / DUPLICATES}), {counts['bad']:,} unreadable ({output / BAD}), "
        f"{counts['twins']:,} twins within a class\n"
        f"{counts['selected']:,} images of {counts['classes']:,} classes: {target}\n"
        f"use: DataLoader.Train.dataset: {{name: UnlabeledDataset, unlabeled_root: {pool.root}, "
        f"unlabeled_list: {target}}}"
    )
    return 0


def _bits(text: str) -> int:
    if not text.isdecimal() or int(text) > BITS:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to {BITS}, found {text!r}"
        )
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite select", description="Choose images without labels to distil on."
    )
    add = parser.add_argument
    add("teacher", metavar="TEACHER", help="an exported folder, or an ONNX file")
    add("pool", metavar="POOL", help="a folder of images, or a list of paths")
    add("--root", metavar="DIR", help="where the paths of POOL begin (its folder)")
    add("--val", metavar="POOL", help="images whose near-duplicates are left out")
    add("--val-root", metavar="DIR", help="where the paths of --val begin (its folder)")
    text = "where scores and lists go"
    add("--output", type=output_folder, required=True, metavar="DIR", help=text)
    add(
        "--top",
        type=positive,
        default=4000,
        metavar="K",
        help="of each class, at most (4000)",
    )
    bits = f"bits of {BITS} that may differ between near-duplicates ({DISTANCE})"
    add("--distance", type=_bits, default=DISTANCE, metavar="N", help=bits)
    add("--keep-twins", action="store_true", help="keep near-duplicates within the pool")
    add("-c", "--config", metavar="FILE", help="recipe whose Infer.transforms an ONNX file needs")
    add("--batch-size", type=positive, default=32, metavar="N", help="images at once (32)")
    add("--workers", type=positive, default=2, metavar="N", help="threads that read images (2)")
    add(
        "--threads",
        type=thread_count,
        metavar="N",
        help="CPU threads (usable cores, at most 4)",
    )
    add("--device", default="auto", metavar="NAME", help="auto, cpu or gpu (auto)")
    return parser
