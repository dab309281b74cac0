"""Whether a recipe prepares images as the weights expect that it starts from.

timm's weights say so themselves; a difference is named, and with `Arch.adopt_preprocessing` theirs
is taken. Read before: start.py. Read next: ../models/weights/timm_config.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ppcls_lite.config.complete import Recipe, plain_copy
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.timm import architecture_of
from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.timm_config import Preparation, preparation_of
from ppcls_lite.recipe.networks import shipped

_COMPARED = {
    "ResizeImage": ("resize_short", "interpolation", "backend"),
    "CropImage": ("size",),
    "NormalizeImage": ("mean", "std"),
}
_KNOWN = {"DecodeImage", *_COMPARED, "ToCHWImage"}
_LAST = "ToCHWImage"


def follow_weights(recipe: Recipe) -> Recipe:
    """The recipe with the preparation of its `pretrained`, or with a warning where they differ.

    Nothing is asked of weights that do not say how images are prepared.
    """
    settings = recipe.settings
    member = shipped(settings)
    adopt = settings.Arch.extras.adopt_preprocessing
    pretrained = member.pretrained
    timms = isinstance(pretrained, str) and architecture_of(pretrained) is not None
    started = settings.Global.pretrained_model or settings.Global.checkpoints
    if adopt and not isinstance(pretrained, str):
        raise UserError(
            f"{member.path}.adopt_preprocessing: these weights do not say how images are prepared; "
            "timm's do (pretrained: timm://...)"
        )
    if not adopt and (started or not timms):
        return recipe
    try:
        wanted = preparation_of(pretrained)
    except UserError as error:
        if adopt:
            raise
        text = f"{member.path}.pretrained: whether images are prepared alike is not known: {error}"
        return dataclasses.replace(recipe, warnings=(*recipe.warnings, text))
    if wanted is None:
        raise UserError(f"{pretrained}: there is no config.json beside it")
    if adopt:
        return _adopted(recipe, wanted)
    found = _differences(recipe.tree, wanted)
    if not found:
        return recipe
    text = (
        f"{member.path}.pretrained: the weights were evaluated on images that are prepared "
        f"otherwise: {'; '.join(found)}. -o Arch.adopt_preprocessing=true takes theirs"
    )
    return dataclasses.replace(recipe, warnings=(*recipe.warnings, text))


def _differences(tree: dict[str, Any], wanted: Preparation) -> list[str]:
    """Where the evaluation of a recipe prepares images in another way."""
    lists = tree.get("DataLoader") or {}
    split = (lists.get("Eval") or {}).get("dataset", {}).get("transform_ops")
    ops = split or (tree.get("Infer") or {}).get("transforms") or []
    own = dict(take_apart(op) for op in ops)
    found = []
    for name, arguments in map(take_apart, wanted.transforms()):
        for key in _COMPARED.get(name, ()):
            here = (own.get(name) or {}).get(key)
            if here != arguments[key]:
                found.append(f"{name}.{key} {arguments[key]}, here {here}")
    return found


def _adopted(recipe: Recipe, wanted: Preparation) -> Recipe:
    tree = plain_copy(recipe.tree)
    loaders, infer = tree.get("DataLoader") or {}, tree.get("Infer")
    places = []
    if loaders.get("Eval"):
        places.append((loaders["Eval"]["dataset"], "transform_ops", "DataLoader.Eval"))
    if infer:
        places.append((infer, "transforms", "Infer"))
    for section, key, place in places:
        names = [take_apart(op)[0] for op in section[key]]
        if unknown := [name for name in names if name not in _KNOWN]:
            raise UserError(
                f"{place}: adopt_preprocessing knows {', '.join(sorted(_KNOWN))}, but there is "
                f"{unknown[0]}; set the transforms by hand"
            )
        section[key] = wanted.transforms() + [{_LAST: None}] * (_LAST in names)
    train = (loaders.get("Train") or {}).get("dataset", {}).get("transform_ops", [])
    for index, op in enumerate(train):
        name, arguments = take_apart(op)
        if name == "NormalizeImage":
            values = {"mean": list(wanted.mean), "std": list(wanted.std)}
            train[index] = {name: {**arguments, **values}}
    adopted = Recipe.of(tree)
    return dataclasses.replace(adopted, notes=recipe.notes)
