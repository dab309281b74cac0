"""What a recipe says of its networks reaches the task that is trained."""

from __future__ import annotations

import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.engine.distributed import World
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.recipe.networks import build_task

FIRST, LAST = "lr_mult_list=[0.0, 0.0, 0.0, 0.0, 1.0, 1.0]", "blocks6"


@pytest.mark.parametrize(("given", "kept"), [([], True), (["freeze_statistics=false"], False)])
def test_a_frozen_part_keeps_its_statistics_unless_the_recipe_says_otherwise(
    given: list[str], kept: bool
) -> None:
    overrides = [f"Arch.{FIRST}", *(f"Global.{value}" for value in given)]
    recipe = Recipe.of(load_config("configs/quickstart/digits.yaml", overrides))
    task = build_task(recipe.settings, CombinedLoss([CELoss()]), World())
    task.train()
    assert task.model.conv1.bn.training is not kept
    last = [layer for name, layer in task.model.named_sublayers() if name.startswith(LAST)]
    assert all(layer.training for layer in last)
