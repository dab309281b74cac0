"""`explain`: where in an image a classifier found its class, beside the image.

Read before: ../models/class_map.py, ../report/heat.py. Read next: report.py, which asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine import log
from ppcls_lite.errors import UserError
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.postprocess.base import softmax
from ppcls_lite.inference.preprocess import Preprocessor
from ppcls_lite.models.class_map import class_maps
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.names import labels_of
from ppcls_lite.recipe.networks import build_model
from ppcls_lite.recipe.start import say_weights, start_alone, warn, with_weights
from ppcls_lite.report.facts import IMAGES, read_facts
from ppcls_lite.report.heat import beside, heated, seen
from ppcls_lite.report.page import EXPLAINED, explained_name
from ppcls_lite.report.pictures import write_image
from ppcls_lite.report.sheets import shrunk

logger = logging.getLogger("ppcls_lite")
_EDGE = 320  # pixels of a picture, at least: small inputs are enlarged


class Explainer:
    """The network of a recipe with its weights, how it sees images, and its classes' names."""

    def __init__(self, recipe: Recipe) -> None:
        settings = count_classes_in_weights(recipe.settings)
        self.names = labels_of(settings)
        self._network = build_model(settings)
        self._network.eval()
        ops, plugins = recipe.tree["Infer"]["transforms"], settings.Global.plugins
        self._prepare = Preprocessor(ops, plugins=tuple(plugins))

    def __call__(
        self, image: str | Path, wanted: str | None = None
    ) -> tuple[np.ndarray, np.ndarray, str, float]:
        """What the network saw and the map over it, (H, W, 3) uint8 both; the class, its score.

        wanted: a class's name or number; None: the best. Raises UserError for an image that cannot
        be read, a class that is not there, a network without maps.
        """
        array = self._prepare(str(image)).array  # (C, H, W)
        classes = None if wanted is None else [self._class_of(wanted)]
        found = class_maps(self._network, paddle.to_tensor(array[None]), classes)
        chosen = int(found.classes[0])
        name = self.names[chosen] if self.names else str(chosen)
        picture = shrunk(seen(array), max(_EDGE, *array.shape[1:]))
        score = float(softmax(found.logits.astype(np.float64))[0, chosen])
        return picture, heated(picture, found.maps[0]), name, score

    def _class_of(self, wanted: str) -> int:
        if self.names and wanted in self.names:
            return self.names.index(wanted)
        if wanted.isdecimal():
            return int(wanted)
        known = f"; there are {', '.join(self.names[:10])}" if self.names else ""
        raise UserError(f"--class {wanted}: no such class{known}, or a number")


def explain(
    recipe: Recipe, images: Sequence[str], folder: Path, wanted: str | None = None
) -> list[Path]:
    """Write a picture for each of the images into `folder`; returns the files."""
    recipe = with_weights(start_alone(recipe, ("Infer",)), "explain with")
    files = find_images(images, "IMAGE")
    log.setup()
    warn(recipe)
    say_weights(recipe.settings)
    explainer = Explainer(recipe)
    written = []
    for number, file in enumerate(files):
        picture, heat, name, score = explainer(file, wanted)
        if not number:
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{file.stem}{f'_{number}' if len(files) > 1 else ''}.png"
        write_image(beside(picture, heat), path)
        logger.info(f"{file}: {name} {score:.4f}, {path}")
        written.append(path)
    return written


def explain_mistakes(recipe: Recipe, place: Path) -> int:
    """Explain the images that images.json in `place` names, for report.html; returns how many.

    A network without maps, or a recipe without `Infer`, explains none.
    """
    groups = read_facts(place / IMAGES) or []
    if recipe.settings.Infer is None or not any(group["images"] for group in groups):
        return 0
    explainer, count = Explainer(recipe), 0
    (place / EXPLAINED).mkdir(exist_ok=True)
    for group in groups:
        for number, (file, _) in enumerate(group["images"]):
            try:
                _, heat, *_ = explainer(file)
            except UserError as error:
                logger.warning(f"not explained: {error}")
                return count
            name = f"{explained_name(group['title'], number)}.png"
            write_image(shrunk(heat), place / EXPLAINED / name)
            count += 1
    return count
