"""How the weights want images prepared: compared with the recipe, named, adopted when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.weights import hub
from ppcls_lite.recipe.preprocessing import follow_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ADDRESS = "timm://lcnet_050.ra2_in1k"
PREPARED = {"crop_pct": 0.875, "interpolation": "bicubic", "input_size": [3, 224, 224]}
VALUES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with a description, and nothing else."""
    folder = tmp_path / "models--timm--lcnet_050.ra2_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1" * 40)
    path = folder / "snapshots" / ("1" * 40) / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"pretrained_cfg": PREPARED | VALUES}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub, "_has_library", lambda: False)
    return path


def recipe(*overrides: str) -> Recipe:
    return Recipe.of(load_config(CONFIGS / "PPLCNet_x0_5.yaml", overrides))


def test_timms_options_are_in_the_recipe() -> None:
    arch = recipe(f"Arch.pretrained={ADDRESS}").tree["Arch"]
    assert arch["last_conv_bias"] is True and arch["dropout_mode"] == "upscale_in_train"
    kept = recipe(f"Arch.pretrained={ADDRESS}", "Arch.dropout_mode=downscale_in_infer").tree
    assert kept["Arch"]["dropout_mode"] == "downscale_in_infer"
    assert "last_conv_bias" not in recipe("Arch.pretrained=true").tree["Arch"]
    with pytest.raises(ConfigError, match=r"Arch\.pretrained: .* which is PPLCNet_x1_0 here"):
        recipe("Arch.pretrained=timm://lcnet_100.ra2_in1k")


def test_a_difference_is_named() -> None:
    (warning,) = follow_weights(recipe(f"Arch.pretrained={ADDRESS}")).warnings
    assert "ResizeImage.interpolation bicubic, here None" in warning
    assert "NormalizeImage.mean [0.5, 0.5, 0.5], here [0.485, 0.456, 0.406]" in warning
    assert "CropImage" not in warning and "Arch.adopt_preprocessing=true" in warning
    assert not follow_weights(recipe("Arch.pretrained=true")).warnings
    started = recipe(f"Arch.pretrained={ADDRESS}", "Global.pretrained_model=somewhere")
    assert not follow_weights(started).warnings


def ops(tree: dict[str, Any], split: str) -> list[Any]:
    return tree["DataLoader"][split]["dataset"]["transform_ops"]


def test_theirs_is_adopted() -> None:
    found = follow_weights(recipe(f"Arch.pretrained={ADDRESS}", "Arch.adopt_preprocessing=true"))
    tree = found.tree
    resize = {"resize_short": 256, "interpolation": "bicubic", "backend": "pil"}
    assert ops(tree, "Eval")[1] == {"ResizeImage": {**resize, "long_edge": "cut"}}
    assert ops(tree, "Eval")[3]["NormalizeImage"]["mean"] == [0.5, 0.5, 0.5]
    assert ops(tree, "Train")[-1]["NormalizeImage"]["std"] == [0.5, 0.5, 0.5]
    assert tree["Infer"]["transforms"] == [*ops(tree, "Eval"), {"ToCHWImage": None}]
    assert not found.warnings


def test_what_cannot_be_adopted(cache: Path) -> None:
    with pytest.raises(UserError, match="these weights do not say how images are prepared"):
        follow_weights(recipe("Arch.pretrained=true", "Arch.adopt_preprocessing=true"))
    cache.unlink()
    (warning,) = follow_weights(recipe(f"Arch.pretrained={ADDRESS}")).warnings
    assert "whether images are prepared alike is not known" in warning
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        follow_weights(recipe(f"Arch.pretrained={ADDRESS}", "Arch.adopt_preprocessing=true"))
