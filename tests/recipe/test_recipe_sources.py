"""What a recipe names from elsewhere: weights at an address, a list of label names."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.recipe import networks
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.parts import labels_of

ADDRESS = "https://example.org/weights/mine.pdparams"


def settings(*overrides: str) -> RecipeSettings:
    return Recipe.of(load_config("configs/quickstart/digits.yaml", overrides)).settings


def test_pretrained_model_may_be_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = create_model("PPLCNet_x0_25", class_num=7, stride_list=[2, 1, 2, 2, 2])
    file = write_state(tmp_path / "fetched", network.state_dict())
    monkeypatch.setattr(networks, "fetch_weights", {ADDRESS: file}.__getitem__)
    found = settings(f"Global.pretrained_model={ADDRESS}", "Arch.class_num=null")
    counted = count_classes_in_weights(found)
    assert counted.Arch.get("class_num") == 7
    loaded = networks.build_model(counted).state_dict()
    for key, value in network.state_dict().items():
        np.testing.assert_array_equal(loaded[key].numpy(), value.numpy())


def test_a_label_list_that_an_export_will_want_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = settings(f"Infer.PostProcess.class_id_map_file={tmp_path}/nus_wide.txt")
    assert labels_of(missing) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "an export will want names: label file" in record.message
    assert "nus_wide.txt' does not exist" in record.message
    with pytest.raises(UserError, match=r"nus_wide\.txt' does not exist"):
        labels_of(missing, required=True)
