"""`infer`: the network itself predicts images, unexported.

Read before: start.py. Read next: inference/predictor.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.settings import InferSettings
from ppcls_lite.engine import log
from ppcls_lite.errors import ConfigError
from ppcls_lite.inference.cli.output import ResultFile, table_head, table_lines
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.shipped import Shipped
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.names import labels_of
from ppcls_lite.recipe.networks import build_model, shipped
from ppcls_lite.recipe.start import Tree, say_weights, start_alone, warn, with_weights


def infer(tree: Tree | Recipe) -> int:
    """Predict `Infer.infer_imgs` or `Infer.infer_list` with the network itself, unexported.

    Prints a table; with `Infer.save_dir` the results go to a file there as well. Returns the exit
    status: 1 if some image could not be read.
    """
    recipe = start_alone(tree, ("Infer",))
    recipe = with_weights(recipe, "predict with")
    settings = count_classes_in_weights(recipe.settings)
    wanted = settings.Infer
    files = _images(wanted)
    log.setup()
    warn(recipe)
    say_weights(settings)
    engine = Shipped(build_model(settings))
    engine.eval()
    spec = InferenceSpec(
        model_name=shipped(settings).node.entry.name,
        transform_ops=recipe.tree["Infer"]["transforms"],
        postprocess=_named(recipe.tree["Infer"]["PostProcess"], labels_of(settings, required=True)),
        image_shape=None,
        output="logits",
        outputs=engine.outputs,
        plugins=tuple(settings.Global.plugins),
        tiling=wanted.tiling,
        tta=wanted.tta,
    )
    predictor = Predictor.of(spec, engine)
    failed = 0
    with contextlib.ExitStack() as stack:
        kept = None
        if wanted.save_dir:
            path = Path(wanted.save_dir) / "infer.jsonl"
            kept = stack.enter_context(ResultFile(path, predictor.postprocess))
        print(table_head(predictor.postprocess))
        for result in predictor.stream(files, wanted.batch_size, keep_going=True):
            failed += "error" in result
            print(*table_lines(result, predictor.postprocess), sep="\n")
            if kept:
                kept.write(result)
    return 1 if failed else 0


def _named(node: Any, labels: Sequence[str] | None) -> dict[str, Any]:
    """The post-processing, with the names of classes in place of their file where there are any."""
    name, arguments = take_apart(node)
    if labels is not None:
        arguments = {
            k: v for k, v in arguments.items() if k not in ("class_id_map_file", "delimiter")
        }
        arguments["label_list"] = [str(label) for label in labels]
    return {name: arguments}


def _images(wanted: InferSettings) -> list[Path]:
    """What to predict: the list where it is given, or else a file or folder."""
    if wanted.infer_list:
        return find_images([wanted.infer_list], "Infer.infer_list:")
    if wanted.infer_imgs:
        return find_images([wanted.infer_imgs], "Infer.infer_imgs:")
    raise ConfigError("Infer.infer_imgs: expected a file or folder: -o Infer.infer_imgs=PATH")
