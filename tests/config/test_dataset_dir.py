"""`Global.dataset_dir`: one key for lists, images and class names of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.dataset_dir import LAYOUTS
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import ConfigError


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.train)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in request.param:
        (tmp_path / name).touch()
    return tmp_path


def recipe(folder: object, *overrides: str, config: str = "PPLCNet_x0_5.yaml") -> dict[str, Any]:
    return Recipe.of(load_config(config, [f"Global.dataset_dir={folder}", *overrides])).tree


def test_it_sets_what_the_folder_holds(folder: Path) -> None:
    tree = recipe(folder, config="quickstart/photos.yaml")
    layout = LAYOUTS[int((folder / LAYOUTS[1].train).exists())]
    for split, name in (("Train", layout.train), ("Eval", layout.val)):
        dataset = tree["DataLoader"][split]["dataset"]
        assert dataset["image_root"] == str(folder)
        assert dataset["cls_label_path"] == f"{folder}/{name}"
    assert tree["Arch"]["class_num"] is None and recipe(folder)["Arch"]["class_num"] is None
    assert tree["Infer"]["infer_imgs"] == str(folder)
    assert tree["Infer"]["PostProcess"]["class_id_map_file"] == str(folder / layout.labels)
    assert Recipe.of(tree).tree == tree  # and says the same of what it said


def test_names_of_other_classes_do_not_stay(folder: Path) -> None:
    for layout in LAYOUTS:
        (folder / layout.labels).unlink(missing_ok=True)
    assert recipe(folder)["Infer"]["PostProcess"]["class_id_map_file"] is None


@pytest.mark.parametrize(
    ("make", "override", "says"),
    [
        (False, "Global.epochs=1", r"Global.dataset_dir: .*there is no such folder; expected"),
        (True, "Global.epochs=1", r"there is no such list; expected a folder with train.txt"),
    ],
)
def test_a_folder_without_lists(make: bool, override: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    if make:
        folder.mkdir()
    with pytest.raises(ConfigError, match=says):
        recipe(folder, override)


@pytest.mark.parametrize("value", ["5", "[a]", "{a: 1}"])
def test_what_is_no_folder_name_is_left_to_the_check(value: str) -> None:
    with pytest.raises(ConfigError, match=r"Global.dataset_dir: expected a text"):
        recipe(value)


def test_a_data_set_without_lists_is_named(folder: Path) -> None:
    tree = load_config("PPLCNet_x0_5.yaml", [f"Global.dataset_dir={folder}"])
    tree["DataLoader"]["Train"]["dataset"] = {"FolderDataset": {"root": "x", "transform_ops": []}}
    with pytest.raises(ConfigError, match=r"which DataLoader.Train.dataset, FolderDataset, does"):
        Recipe.of(tree)
    tree["DataLoader"]["Train"]["dataset"] = {"FoldrDataset": {}}
    with pytest.raises(ConfigError, match="did you mean 'FolderDataset'"):
        Recipe.of(tree)
