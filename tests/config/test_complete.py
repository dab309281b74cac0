"""What follows from another key of a recipe: `Infer.transforms`, and every size of the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump, load_config
from ppcls_lite.config.node import Node
from ppcls_lite.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RECIPES = sorted(p for p in CONFIGS.rglob("*.yaml") if "_base_" not in p.parts)
OFFICIAL = sorted((ROOT / "tests" / "fixtures" / "official").glob("*.yaml"))
EVAL_RESIZE = "DataLoader.Eval.dataset.transform_ops.1.ResizeImage"
DECODE = "DecodeImage: {to_rgb: true, channel_first: false}"
NORMALIZE = "NormalizeImage: {scale: 1.0/255.0, mean: [0.485, 0.456, 0.406], order: ''}"
INFER = (
    f"Infer.transforms=[{{{DECODE}}}, {{ResizeImage: {{resize_short: 256}}}}, "
    f"{{CropImage: {{size: 224}}}}, {{{NORMALIZE}}}, ToCHWImage]"
)


def recipe(*overrides: str, name: str = "PPLCNet_x0_5") -> Recipe:
    return Recipe.of(load_config(CONFIGS / f"{name}.yaml", overrides))


def refused(*overrides: str, name: str = "PPLCNet_x0_5") -> str:
    with pytest.raises(ConfigError) as caught:
        recipe(*overrides, name=name)
    return str(caught.value)


def ops(recipe: Recipe, split: str) -> list[Any]:
    return recipe.tree["DataLoader"][split]["dataset"]["transform_ops"]


CONTRADICTORY = ("FasterNet_T1", "MobileNetV4_conv_small", "PPHGNetV2_B0", "StarNet_S1")


@pytest.mark.parametrize("path", [*RECIPES, *OFFICIAL], ids=lambda p: p.stem)
def test_no_recipe_predicts_unlike_it_evaluates(path: Path) -> None:
    whole = Recipe.of(load_config(path))
    if path in OFFICIAL and path.stem in CONTRADICTORY:  # upstream's own differences are named
        assert "leave Infer.transforms out" in whole.warnings[0]
        return
    assert not whole.warnings
    assert whole.tree["Infer"]["transforms"] == [*ops(whole, "Eval"), {"ToCHWImage": None}]
    assert dump(Recipe.of(whole.tree).tree) == dump(whole.tree)


def test_prediction_follows_a_change_of_the_evaluation() -> None:
    changed = recipe(f"{EVAL_RESIZE}.resize_short=300")
    assert changed.tree["Infer"]["transforms"][1] == {"ResizeImage": {"resize_short": 300}}
    assert changed.settings.Infer.transforms[1].get("resize_short") == 300
    assert not changed.warnings


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([INFER], "transforms.3.NormalizeImage.std: is None, but "),
        (
            [INFER, f"{EVAL_RESIZE}.resize_short=300"],
            "Infer.transforms.1.ResizeImage.resize_short: is 256, but "
            f"{EVAL_RESIZE}.resize_short is 300;",
        ),
        (
            [INFER, "Infer.transforms.1={CenterCrop: {size: 224}}"],
            f"Infer.transforms.1.CenterCrop: is CenterCrop, but {EVAL_RESIZE} is ResizeImage;",
        ),
        (
            ["Infer.transforms=[DecodeImage, {ResizeImage: {resize_short: 256}}]"],
            "transform_ops.2.CropImage: is in DataLoader.Eval only: Infer.transforms ends before",
        ),
    ],
)
def test_one_difference_is_named(overrides: list[str], says: str) -> None:
    (warning,) = recipe(*overrides).warnings
    assert says in warning


def test_defaults_and_keys_without_effect_are_no_difference() -> None:
    std = "std: [0.229, 0.224, 0.225], order"
    same = INFER.replace("order", std).replace("{to_rgb: true, channel_first: false}", "")
    same = same.replace("resize_short: 256", "resize_short: 256, return_numpy: false")
    assert not recipe(same.replace(", ToCHWImage", "")).warnings


def test_nothing_to_follow_is_a_mistake() -> None:
    says = "Infer.transforms: is missing, and so are the transforms of DataLoader.Eval"
    assert says in refused("DataLoader.Eval=null")
    assert recipe("DataLoader.Eval=null", INFER).tree["Infer"]["transforms"]


def test_one_key_sets_every_size() -> None:
    small = recipe("Global.image_size=192", "Global.image_shape=[3, 224, 224]", INFER)
    assert ops(small, "Train")[1]["RandCropImage"]["size"] == 192
    for chain in (ops(small, "Eval"), small.tree["Infer"]["transforms"]):
        assert chain[1:3] == [{"ResizeImage": {"resize_short": 219}}, {"CropImage": {"size": 192}}]
    assert small.tree["Global"]["image_shape"] == [3, 192, 192]
    data, infer = small.settings.DataLoader, small.settings.Infer
    assert small.settings.Global.image_shape == [3, 192, 192]
    assert data.Train.dataset.get("transform_ops")[1].get("size") == 192
    for nodes in (data.Eval.dataset.get("transform_ops"), infer.transforms):
        assert [nodes[1].get("resize_short"), nodes[2].get("size")] == [219, 192]
    assert dump(Recipe.of(small.tree).tree) == dump(small.tree)  # once more changes nothing


def test_an_evaluation_may_have_larger_images() -> None:
    """224 of training against 256 of evaluation, and both at half the size."""
    sizes = ("Global.image_size=112", "Global.eval_image_size=128")
    shape = "Global.image_shape=[3, 256, 256]"
    small = recipe(*sizes, shape, name="PPLCNet_x1_0_ra4")
    train = ops(small, "Train")
    assert train[1]["RandCropImage"]["size"] == train[3]["TimmAutoAugment"]["img_size"] == 112
    for chain in (ops(small, "Eval"), small.tree["Infer"]["transforms"]):
        assert chain[1]["ResizeImage"]["resize_short"] == chain[2]["CropImage"]["size"] == 128
    assert small.settings.Global.image_shape == [3, 128, 128]
    test = recipe("Global.eval_image_size=320", name="PPLCNet_x1_0_ra4")
    assert ops(test, "Train")[1]["RandCropImage"]["size"] == 224
    assert ops(test, "Eval")[2]["CropImage"]["size"] == 320


def test_a_path_below_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = "DataLoader.Train.dataset.image_root"
    found = recipe("Global.output_dir=~/runs/", f"{root}=~/data", "Infer.infer_imgs=~nobody-x/a")
    settings, tree = found.settings, found.tree
    assert settings.Global.output_dir == tree["Global"]["output_dir"] == f"{tmp_path}/runs/"
    assert settings.DataLoader.Train.dataset.get("image_root") == f"{tmp_path}/data"
    assert settings.Infer.infer_imgs == "~nobody-x/a"


def test_what_is_no_tree_is_named() -> None:
    with pytest.raises(ConfigError, match=r"as load_config\(FILE\) gives it, found 'a\.yaml'"):
        Recipe.of("a.yaml")


def test_the_tree_that_was_given_stays() -> None:
    tree = load_config(CONFIGS / "PPLCNet_x0_5.yaml", ["Global.image_size=96"])
    before = dump(tree)
    Recipe.of(tree)
    assert dump(tree) == before


def test_lengths_in_pixels_keep_their_proportion() -> None:
    padded = recipe("Global.image_size=64", name="quickstart/animals")
    assert [*ops(padded, "Train")[1].values(), *ops(padded, "Train")[2].values()] == [
        {"size": 72, "pad_mode": 1, "fill_value": 0},
        {"size": 64},
    ]
    cutout = "DataLoader.Train.dataset.transform_ops.2=Cutout"
    assert ops(recipe("Global.image_size=112", cutout), "Train")[2] == {
        "name": "Cutout",
        "length": 56,
    }
    scales = "{name: MultiScaleSampler, scales: [160, 192, 224], first_bs: 8}"
    several = recipe("Global.image_size=448", f"DataLoader.Train.sampler={scales}")
    assert several.tree["DataLoader"]["Train"]["sampler"]["scales"] == [320, 384, 448]
    drawn = recipe("Global.image_size=96", name="detection/photos").settings.DataLoader.Train
    assert drawn.sampler.get("sizes") == [64, 96, 96, 96, 128]  # multiples of the network's stride


def test_sizes_that_one_number_cannot_be_are_named() -> None:
    text = refused("Global.image_size=96", name="pulc/textline_orientation")
    assert text.startswith("Global.image_size: 96 cannot be set everywhere")
    for split in ("Train", "Eval"):
        place = f"DataLoader.{split}.dataset.transform_ops.1.ResizeImage.size"
        assert f"\n  {place}: is [160, 80], which is not square" in text
    place = "DataLoader.Eval.dataset.transform_ops"
    text = refused("Global.image_size=96", f"{place}=[DecodeImage, {{Pad: {{padding: 9}}}}]")
    assert f"{place}: none of its transforms sets the size of an image: DecodeImage, Pad" in text


def parts(value: Any) -> Iterator[Any]:
    """All settings and components of a recipe."""
    if isinstance(value, list):
        for item in value:
            yield from parts(item)
    elif dataclasses.is_dataclass(value):
        yield value
        inside = value.arguments.values() if isinstance(value, Node) else vars(value).values()
        for item in inside:
            yield from parts(item)


def test_a_size_that_is_only_a_limit_is_no_square() -> None:
    resize = "{ResizeImage: {size: [320, 320], keep_ratio: true, size_divisor: 32}}"
    place = "DataLoader.Eval.dataset.transform_ops"
    name = "detection/picodet_s_320_coco_lcnet"
    text = refused("Global.image_size=96", f"{place}=[DecodeImage, {resize}]", name=name)
    assert f"{place}.1.ResizeImage.size: with keep_ratio images are no squares" in text


def test_a_checked_recipe_cannot_be_changed() -> None:
    whole = recipe("AMP.level=O1", "EMA.decay=0.9")
    found = [whole, *parts(whole.settings)]
    assert len(found) > 30
    for part in found:
        for field in dataclasses.fields(part):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, field.name, None)
    with pytest.raises(TypeError):
        whole.settings.Arch.arguments["class_num"] = 3
