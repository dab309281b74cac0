"""`infer`: the network itself predicts images, unexported. Read before: start.py."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import numpy as np
import paddle

from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine import log
from ppcls_lite.errors import ConfigError
from ppcls_lite.inference.cli.output import ResultFile, table_head, table_lines
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.networks import build_model, shipped
from ppcls_lite.recipe.start import (
    Tree,
    require_weights,
    start_alone,
    warn,
)

logger = logging.getLogger("ppcls_lite")


def infer(tree: Tree | Recipe) -> int:
    """Predict `Infer.infer_imgs` or `Infer.infer_list` with the network itself, unexported.

    Prints a table; with `Infer.save_dir` the results go to a file there as well. Returns the exit
    status: 1 if some image could not be read.
    """
    recipe = start_alone(tree, ("Infer",))
    require_weights(recipe.settings, "predict with")
    settings = count_classes_in_weights(recipe.settings)
    wanted = settings.Infer
    option = "infer_list" if wanted.infer_list else "infer_imgs"
    source = getattr(wanted, option)
    if not source:
        raise ConfigError("Infer.infer_imgs: expected a file or folder: -o Infer.infer_imgs=PATH")
    files = find_images([source], f"Infer.{option}:")
    log.setup()
    warn(recipe)
    model = build_model(settings)
    model.eval()
    predictor = Predictor.of(
        InferenceSpec(
            model_name=shipped(settings).node.entry.name,
            transform_ops=recipe.tree["Infer"]["transforms"],
            postprocess=_one_key(recipe.tree["Infer"]["PostProcess"]),
            image_shape=None,
            output="logits",
            versions={},
        ),
        _DygraphEngine(model),
    )
    failed = 0
    with contextlib.ExitStack() as stack:
        keep = None
        if wanted.save_dir:
            keep = stack.enter_context(ResultFile(Path(wanted.save_dir) / "infer.jsonl"))
        print(table_head())
        for result in predictor.stream(files, wanted.batch_size, keep_going=True):
            failed += "error" in result
            print(*table_lines(result), sep="\n")
            if keep:
                keep.write(result)
    return 1 if failed else 0


class _DygraphEngine:
    """Runs a network as a Predictor wants it."""

    def __init__(self, model: Backbone) -> None:
        self.model = model

    def run(self, array: np.ndarray) -> list[np.ndarray]:
        with paddle.no_grad():
            return [self.model(paddle.to_tensor(array)).numpy()]


def _one_key(node: Tree) -> Tree:
    """`{name: X, ...}` as `{X: {...}}`."""
    if "name" not in node:
        return node
    return {node["name"]: {k: v for k, v in node.items() if k != "name"}}
