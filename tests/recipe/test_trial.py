"""A network is run on zeros before the data is read, and nothing changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.engine import rng
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.names import class_num_of
from ppcls_lite.recipe.parts import build_metrics
from ppcls_lite.recipe.train import train
from ppcls_lite.recipe.trial import try_network

PLUGIN = """
from paddle import nn
from ppcls_lite import register
from ppcls_lite.models.network import Network

@register("model")
class Plain(Network):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, 10, 1)

    def forward(self, image):
        return self.conv(image).mean([2, 3])
"""


def settings(*overrides: str) -> RecipeSettings:
    return Recipe.of(load_config("configs/quickstart/digits.yaml", overrides)).settings


def test_generators_and_names_stay_as_they_were() -> None:
    drawn: list[Any] = []
    for tried in (False, True):
        rng.seed(3)
        with paddle.utils.unique_name.guard():
            if tried:
                try_network(settings())
            layer = paddle.nn.Linear(4, 4)
        drawn.append((layer.weight.name, layer.weight.numpy(), np.random.rand()))
    assert drawn[0][0] == drawn[1][0] and drawn[0][2] == drawn[1][2]
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])


def test_a_network_that_does_not_run_is_named_before_the_data(tmp_path: Path) -> None:
    file = tmp_path / "plain.py"
    file.write_text(PLUGIN, encoding="utf-8")
    own = (f"Global.plugins=[{file}]", "Arch={name: Plain, channels: 4}")
    nowhere = (
        "DataLoader.Train.dataset.cls_label_path=/nowhere.txt",
        f"Global.output_dir={tmp_path}",
    )
    tree = load_config("configs/quickstart/digits.yaml", [*own, *nowhere])
    says = r"^Arch: Plain .* 3 x 32 x 32 .*filter's channels is 4.* \(plain.py:13\)$"
    with pytest.raises(ConfigError, match=says) as caught:
        train(tree)
    assert len(str(caught.value)) < 1000
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        train(load_config("configs/quickstart/digits.yaml", nowhere))


def test_a_network_without_class_num_has_none(tmp_path: Path) -> None:
    file = tmp_path / "plain.py"
    file.write_text(PLUGIN, encoding="utf-8")
    plain = settings(f"Global.plugins=[{file}]", "Arch={name: Plain}")
    try_network(plain)
    assert class_num_of(plain) is None
    assert len(build_metrics(plain, "Eval")) == 1


def test_images_without_a_size_are_left_out() -> None:
    crop = "DataLoader.Eval.dataset.transform_ops=[DecodeImage: {}, NormalizeImage: {order: ''}]"
    try_network(settings(crop, "Arch.stride_list=[2]"))
    with pytest.raises(UserError, match="stride_list needs 5 entries"):
        try_network(settings("Arch.stride_list=[2]"))
