"""What a recipe names from elsewhere: weights at an address, a list of label names."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.errors import UserError
from ppcls_lite.inference.postprocess.attributes import PersonAttribute, VehicleAttribute
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights import pretrained
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.recipe import networks
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.names import labels_of

ADDRESS = "https://example.org/weights/mine.pdparams"


def settings(*overrides: str) -> RecipeSettings:
    return Recipe.of(load_config("configs/quickstart/digits.yaml", overrides)).settings


def test_pretrained_model_may_be_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = create_model("PPLCNet_x0_25", class_num=7, stride_list=[2, 1, 2, 2, 2])
    file = write_state(tmp_path / "fetched", network.state_dict())
    monkeypatch.setattr(pretrained, "fetch_weights", {ADDRESS: file}.__getitem__)
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


def test_names_of_the_data_s_label_file_reach_the_answers(tmp_path: Path) -> None:
    """Said once: of the last lines those of labels that count nowhere are left out."""
    names = tmp_path / "labels.txt"
    names.write_text("0 sky\n1 road\n2 unlabelled\n", encoding="utf-8")
    data = f"{{name: SegDataset, image_root: x, transform_ops: [DecodeImage], label_file: {names}}}"
    follows = ["Arch.class_num=2", f"DataLoader.Eval.dataset={data}", "Infer.transforms=null"]
    plain = "Infer.PostProcess={name: Topk}"
    assert labels_of(settings(*follows, plain), required=True) == ["sky", "road"]
    none = "Infer.PostProcess={name: Topk, class_id_map_file: null}"
    assert labels_of(settings(*follows, none)) is None
    own = "Infer.PostProcess={name: Topk, label_list: [a, b]}"
    assert labels_of(settings(*follows, own)) is None
    assert labels_of(settings(*follows, "Infer.PostProcess={name: ScoreOutput}")) is None
    with pytest.raises(UserError, match=r"DataLoader.Eval.dataset.label_file: .*names 3 classes"):
        labels_of(settings(*follows, plain, "Arch.class_num=4"), required=True)


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("cityscapes_label_list.txt", 19, "road", "bicycle"),
        ("NUS-WIDE-SCENE_label_list.txt", 33, "airport", "window"),
        ("COCO2017_label_list.txt", 80, "person", "toothbrush"),
        ("pedestrian_attribute_label_list.txt", 26, "Hat", "Back"),
        ("vehicle_attribute_label_list.txt", 19, "yellow", "estate"),
        ("imagenet1k_label_list.txt", 1000, "tench", "toilet tissue"),
        ("PULC_label_list/traffic_sign_label_list.txt", 232, "pl80", "pw4"),
    ],
)
def test_lists_that_official_recipes_name_are_bundled(
    name: str, count: int, first: str, last: str
) -> None:
    names = labels_of(
        settings(
            f"Infer.PostProcess.class_id_map_file=ppcls/utils/{name}", f"Arch.class_num={count}"
        ),
        required=True,
    )
    assert names is not None and len(names) == count
    assert (names[0], names[-1]) == (first, last)


def test_the_bundled_lists_have_the_order_of_the_answers() -> None:
    """PA100K's and VeRi's attributes, as the post-processings of PULC name them by place."""
    vehicle = read_label_file("vehicle_attribute_label_list.txt")
    assert vehicle == [*VehicleAttribute.colors, *VehicleAttribute.types]
    person = read_label_file("pedestrian_attribute_label_list.txt")
    assert person[17] in PersonAttribute().one(np.eye(26)[17])["attributes"]
    places = {"Glasses": 1, "Hat": 0, "HoldObjectsInFront": 18, "Female": 22, "Boots": 14}
    assert {name: person.index(name) for name in places} == places
