"""What a recipe says of its networks reaches the task that is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import write_state
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


def task_of(*overrides: str) -> Supervised:
    recipe = Recipe.of(load_config("configs/quickstart/digits.yaml", overrides))
    return build_task(recipe.settings, CombinedLoss([CELoss()]), World())


def test_layers_are_frozen_by_name_and_pattern() -> None:
    task = task_of("Arch.freeze=[conv1,blocks2,'*.se.conv?.bias']")
    task.train()
    frozen = {n for n, p in task.model.named_parameters() if p.stop_gradient}
    places = {name.split(".")[0] for name in frozen if not name.endswith(("_mean", "_variance"))}
    assert places == {"conv1", "blocks2", "blocks6"}
    assert "blocks6.0.se.conv2.bias" in frozen and "blocks6.0.se.conv2.weight" not in frozen
    assert not task.model.conv1.bn.training and task.model.blocks3[0].dw_conv.bn.training
    with pytest.raises(UserError, match=r"Arch.freeze: no layer is called 'block2'; .* blocks2"):
        task_of("Arch.freeze=[block2]")


def test_a_recipe_adds_classes(tmp_path: Path) -> None:
    before = create_model("PPLCNet_x0_25", class_num=4, stride_list=[2, 1, 2, 1, 2])
    write_state(tmp_path / "four", before.state_dict())
    given = [f"Global.pretrained_model={tmp_path / 'four'}", "Arch.stride_list=[2,1,2,1,2]"]
    after = task_of(*given, "Arch.keep_classes=true", "Arch.class_num=10").model
    np.testing.assert_array_equal(after.fc.weight[:, :4].numpy(), before.fc.weight.numpy())
    with pytest.raises(UserError, match="another classifier"):
        task_of(*given, "Arch.class_num=10")
