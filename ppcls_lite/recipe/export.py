"""`export`: the network becomes an inference model.

Read before: start.py. Read next: inference/export.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.engine import log
from ppcls_lite.inference.export import CARD, ExportReport, Format, export_model
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.metrics.certainty import Wish
from ppcls_lite.recipe.certainty import certainty, known_calibration
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.names import labels_of
from ppcls_lite.recipe.networks import build_model, shipped
from ppcls_lite.recipe.parts import image_shape_of, run_dir_of
from ppcls_lite.recipe.start import BEST, Tree, say_weights, start_alone, warn, with_weights
from ppcls_lite.report.model_card import write_card

logger = logging.getLogger("ppcls_lite")
_NOTHING = Wish()
_CHECKED = 8  # images of Infer.infer_imgs that an export is compared on


def export(
    tree: Tree | Recipe,
    format: Format = "paddle",
    programs: Sequence[str] = (),
    wish: Wish = _NOTHING,
) -> ExportReport:
    """Write the network as an inference model to `Global.save_inference_dir`, checked.

    `format`: "paddle", "onnx" or "both". `programs`: names of further ones, each in a folder there.
    `wish`: how certain the answers are to be, which is fitted on `DataLoader.Eval`; without one
    they are the network's own.
    """
    recipe = start_alone(tree, ("Infer",))
    recipe = with_weights(recipe, "export")
    settings = count_classes_in_weights(recipe.settings)
    log.setup()
    warn(recipe)
    name = say_weights(settings)
    answer = recipe.tree["Infer"]["PostProcess"]
    calibration = known_calibration(settings, name)
    if wish:
        arguments, calibration = certainty(settings, wish)
        kind, own = take_apart(answer)
        answer = {kind: {**own, **arguments}}
    report = export_model(
        build_model(settings),
        settings.Global.save_inference_dir,
        image_shape=image_shape_of(settings),
        transforms=recipe.tree["Infer"]["transforms"],
        postprocess=answer,
        labels=labels_of(settings, required=True),
        model_name=shipped(settings).node.entry.name,
        add_softmax=settings.Arch.extras.infer_add_softmax,
        sample_images=_some_real_images(settings),
        format=format,
        plugins=settings.Global.plugins,
        tiling=settings.Infer.tiling,
        tta=settings.Infer.tta,
        pdx_model_name=settings.Global.pdx_model_name,
        calibration=calibration,
        programs=programs,
    )
    home = run_dir_of(settings) if name == BEST else Path(settings.Global.save_inference_dir)
    write_card(report.folder / CARD, InferenceSpec.read(report.folder, None), home)
    logger.info(str(report))
    return report


def _some_real_images(settings: RecipeSettings) -> list[str] | None:
    """Up to eight of `Infer.infer_imgs` to check an export on, if they are there."""
    source = settings.Infer.infer_imgs
    if not source or not Path(source).exists():
        return None
    files = find_images([source], "Infer.infer_imgs")
    return [str(file) for file in files[:: max(1, len(files) // _CHECKED)][:_CHECKED]]
