"""How many classes a recipe's network has, and what they are called. Read next: parts.py."""

from __future__ import annotations

import logging
from typing import Any

from ppcls_lite.config.node import Node
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.errors import UserError
from ppcls_lite.recipe.networks import shipped

logger = logging.getLogger("ppcls_lite")


def class_num_of(settings: RecipeSettings) -> int | None:
    """The class count of the network, which data and metrics follow; None if it takes none."""
    return shipped(settings).node.get("class_num")


def labels_of(settings: RecipeSettings, required: bool = False) -> list[str] | None:
    """The class names of `Infer.PostProcess.class_id_map_file`, None if the key is not there.

    A post-processing that says nothing of names takes those of the data set's `label_file`, whose
    last lines may be of labels that count nowhere. For tables and pictures a list that is missing
    or of another class count is warned of; with `required` it is a UserError, because a wrong name
    on a prediction would mislead.
    """
    node = settings.Infer.PostProcess if settings.Infer else None
    if node is None:
        return None
    place, file = "Infer.PostProcess.class_id_map_file", node.arguments.get("class_id_map_file")
    follows = _takes_names(node) and not {"class_id_map_file", "label_list"} & node.arguments.keys()
    if follows:
        place, file = _label_file_of_data(settings)
    if not file:
        return None
    try:
        names = read_label_file(file, node.arguments.get("delimiter"))
        count = class_num_of(settings)
        names = names[:count] if follows else names
        if count is not None and len(names) != count:
            raise UserError(
                f"{place}: {file} names {len(names)} classes, but Arch.class_num is {count}; give "
                "the list that fits the weights"
            )
    except UserError as error:
        if required:
            raise
        logger.warning(f"classes are shown by number, and an export will want names: {error}")
        return None
    return names


def class_names(settings: RecipeSettings, dataset: Any) -> list[str] | None:
    """For tables and pictures: `labels_of`, or what the data set itself calls its classes."""
    return labels_of(settings) or _own_names(dataset)


def compare_names(settings: RecipeSettings, dataset: Any) -> None:
    """Warn where the names of a prediction's classes are not those of the training set's."""
    keys = _own_names(dataset)
    if keys is None:
        return
    names = labels_of(settings) or keys
    other = [i for i, pair in enumerate(zip(names, keys)) if pair[0] != pair[1]]
    if other:
        file = settings.Infer.PostProcess.arguments.get("class_id_map_file")
        logger.warning(
            f"Infer.PostProcess.class_id_map_file: {file} calls {len(other)} classes by other "
            f"names than the training set {dataset.source}: {other[0]} is {names[other[0]]!r} "
            f"there and {keys[other[0]]!r} here; predictions bear the file's names"
        )


def _own_names(dataset: Any) -> list[str] | None:
    keys = dataset.class_keys
    return [*keys] if keys is not None and all(isinstance(key, str) for key in keys) else None


def _takes_names(postprocess: Node) -> bool:
    """Whether a post-processing shows the names of classes."""
    return any(argument.name == "class_id_map_file" for argument in postprocess.entry.arguments)


def _label_file_of_data(settings: RecipeSettings) -> tuple[str, str | None]:
    """Where a data set states its `label_file`, and which it is."""
    data = settings.DataLoader
    for section in (data.Eval, data.Train) if data is not None else ():
        file = section.dataset.get("label_file") if section is not None else None
        if file:
            return f"{section.dataset.path}.label_file", file
    return "", None
