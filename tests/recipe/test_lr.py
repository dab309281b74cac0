"""`find_rate` and `ppcls-lite lr`: what they find and leave, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import paddle
import pytest
import yaml

import ppcls_lite
from ppcls_lite.cli import main
from ppcls_lite.engine.rate_sweep import RateCurve
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.report.pictures import read_image

UPDATES = 80


@pytest.fixture
def shades_recipe(shades_recipe):
    """All images in a batch: less noise."""
    shades_recipe["DataLoader"]["Train"]["sampler"]["batch_size"] = 16
    return shades_recipe


def test_a_rate_is_suggested_and_the_network_is_as_before(shades_recipe):
    paddle.seed(0)  # of fewer updates not every network learns enough, on one processor or another
    model = ppcls_lite.create_model("PPLCNet_x0_25", class_num=2)
    before = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    found = ppcls_lite.find_rate(shades_recipe, 1e-3, 10, UPDATES, model)
    assert {name: t.numpy().tobytes() for name, t in model.state_dict().items()} == before
    assert found.stated == 0.05 and 1e-4 < found.suggestion < 1
    assert found.suggestion == pytest.approx(found.curve.lowest / 10, rel=0.06)
    kept = json.loads((found.folder / "rates.json").read_text())
    assert kept["suggestion"] == found.suggestion and kept["losses"] == list(found.curve.losses)
    assert read_image(found.folder / "rates.png").std() > 5
    run_dir = found.folder.with_name("PPLCNet_x0_25")
    assert found.folder.name == "PPLCNet_x0_25.lr-1" and not run_dir.exists()


def test_the_rate_of_a_recipe_with_a_base_batch_size_is_the_recipes(shades_recipe, capsys):
    lr = shades_recipe["Optimizer"]["lr"]
    alone = ppcls_lite.find_rate(shades_recipe, 1e-3, 10, UPDATES)
    shades_recipe["Optimizer"]["lr"] = lr | {"base_batch_size": 4}  # 16 images: four times the rate
    scaled = ppcls_lite.find_rate(shades_recipe, 1e-3, 10, UPDATES)
    assert scaled.curve.suggestion == alone.curve.suggestion
    assert scaled.suggestion == pytest.approx(alone.suggestion / 4, rel=0.05)
    assert scaled.folder.name.endswith(".lr-2")


def test_the_command_draws_and_says_how_to_use_it(shades_recipe, tmp_path: Path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(shades_recipe))
    assert main(["lr", "-c", str(path), "--low", "1e-3", "--steps", str(UPDATES)]) == 0
    out = capsys.readouterr().out
    assert "To use it: -o Optimizer.lr.learning_rate=" in out and "because the smoothed loss" in out
    assert sum("*" in line for line in out.splitlines()) >= 4
    flat = ["--low", "1e-9", "--high", "1e-8", "--steps", "12"]
    assert main(["lr", "-c", str(path), *flat]) == 1
    assert "no suggestion" in capsys.readouterr().out


def test_where_few_updates_tell_nothing_more_are_tried(shades_recipe, monkeypatch):
    tried = []

    def sweep(trainer, low, high, steps, show):
        tried.append(steps)
        slope = -0.05 if steps > 500 else 0.05
        return RateCurve([low] * 20, [2 + slope * n for n in range(20)])

    monkeypatch.setattr("ppcls_lite.recipe.lr.sweep", sweep)
    assert ppcls_lite.find_rate(shades_recipe).suggestion is not None and tried == [240, 720]
    assert ppcls_lite.find_rate(shades_recipe, steps=40).suggestion is None and tried[2:] == [40]


def test_what_makes_no_sense_is_refused(shades_recipe):
    with pytest.raises(UserError, match="0 < low < high"):
        ppcls_lite.find_rate(shades_recipe, 1, 0.1)
    shades_recipe["Global"]["checkpoints"] = "auto"
    with pytest.raises(ConfigError, match=r"Global\.checkpoints: a rate is looked for from the"):
        ppcls_lite.find_rate(shades_recipe)
