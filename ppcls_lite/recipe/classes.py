"""How many classes a network gets whose recipe does not say it (`Arch.class_num`).

A training counts them in its data, every other command in its weights. Read before: start.py.
"""

from __future__ import annotations

import dataclasses

from ppcls_lite.config.complete import Recipe, plain_copy
from ppcls_lite.config.image_size import component_at
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.errors import ConfigError
from ppcls_lite.models.weights.load import read_state
from ppcls_lite.recipe.networks import given_weights, shipped, taken_of, weights_of


def count_classes_in_data(recipe: Recipe) -> Recipe:
    """With the class count of `DataLoader.Train`, where `Arch` states none.

    Raises ConfigError for a data set that cannot tell it.
    """
    settings = recipe.settings
    if _stated(settings) or settings.DataLoader.Train is None:
        return recipe
    node = settings.DataLoader.Train.dataset
    dataset = node.build(seed=0)
    if dataset.class_num is None:
        raise ConfigError(
            f"Arch.class_num: is missing, and {node.path} ({node.entry.name}) does not tell how "
            "many classes its labels have: give it with -o Arch.class_num=NUMBER"
        )
    count = dataset.class_num
    note = f"Arch.class_num: {count}, as in {dataset.source}"
    tree = plain_copy(recipe.tree)
    component_at(tree, settings.Arch.path)["class_num"] = count
    return dataclasses.replace(
        recipe, tree=tree, settings=_with(settings, count), notes=(*recipe.notes, note)
    )


def count_classes_in_weights(settings: RecipeSettings) -> RecipeSettings:
    """With the class count of the weights that the recipe names, where `Arch` states none.

    Raises ConfigError for weights without the network's classifier.
    """
    if _stated(settings):
        return settings
    member = shipped(settings)
    given = given_weights(settings)
    path = given or weights_of(member)
    state = taken_of(settings).of(read_state(path), str(path)) if given else read_state(path)
    network = member.node.entry.load()
    own = {key.removeprefix(f"{member.name}."): value for key, value in state.items()}
    count = network.classes_in(state) or network.classes_in(own)
    if count is None:
        raise ConfigError(
            f"Arch.class_num: is missing, and {path} has no "
            f"{network.head_layers[-1] if network.head_layers else 'classifier'} in which to count "
            "the classes: give it with -o Arch.class_num=NUMBER"
        )
    return _with(settings, count)


def _stated(settings: RecipeSettings) -> bool:
    """Whether the class count of the network that ships is in the recipe, or is not asked for."""
    node = shipped(settings).node
    asked = any(argument.name == "class_num" for argument in node.entry.arguments)
    return not asked or node.arguments.get("class_num") is not None


def _with(settings: RecipeSettings, count: int) -> RecipeSettings:
    return dataclasses.replace(settings, Arch=settings.Arch.given(class_num=count))
