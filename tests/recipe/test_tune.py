"""The search: it finds a planted best rate, goes on where it stopped, and refuses nonsense."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest
import yaml

import ppcls_lite
from ppcls_lite.cli import main
from ppcls_lite.engine import run_folder
from ppcls_lite.engine.callbacks import FitResult
from ppcls_lite.engine.run_list import read_status
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.parts import run_dir_of
from ppcls_lite.recipe.search_space import candidates
from ppcls_lite.recipe.tune import tune

RATE = "Optimizer.lr.learning_rate"


PLANTED = 0.03


class Learning:
    """Stands for `train`: a score that rises with the epochs, most at the planted rate."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int]] = []  # rate and epoch
        self.ask: str | None = None

    def stop(self, why: str, is_pause: bool) -> None:
        self.ask = why

    def __call__(self, recipe, callbacks, closing):
        settings = recipe.settings
        rate = settings.Optimizer.arguments["lr"].arguments["learning_rate"]
        if rate > 10:
            raise UserError("Training stopped: the loss is nan\nand more")
        run_dir = run_dir_of(settings)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.ask, epoch = None, read_status(run_dir).get("epoch", 0)
        while epoch < settings.Global.epochs and not self.ask:
            epoch += 1
            score = 1 - abs(math.log10(rate / PLANTED)) / 10 - 0.5 / epoch
            self.trained.append((f"{rate:g}", epoch))
            known = {"status": "stopped", "epoch": epoch, "best": score, "main": "top1"}
            (run_dir / "status.json").write_text(json.dumps(known | {"higher_is_better": True}))
            for callback in callbacks:
                callback.on_epoch(self, {"epoch": epoch, "eval": {"top1": score}})
        return FitResult(run_dir, {}, {})


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Learning:
    found = Learning()
    monkeypatch.setattr("ppcls_lite.recipe.tune.train", found)
    return found


@pytest.fixture
def recipe(shades_recipe, tmp_path: Path) -> Path:
    shades_recipe["Global"]["epochs"] = 9
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(shades_recipe))
    return path


def test_the_planted_rate_wins_and_only_the_best_go_on(recipe: Path, learning: Learning):
    rates = ["0.0001", "0.001", "0.01", "0.03", "0.1", "0.3", "1.0", "3.0", "99.0"]
    search = tune(recipe, [f"{RATE}={','.join(rates)}"])
    assert search.complete and search.trials[0].values == {RATE: "0.03"}
    assert [t.epoch for t in search.trials] == [9, 3, 3, 1, 1, 1, 1, 1, 0]
    assert {t.values[RATE] for t in search.trials[1:3]} == {"0.01", "0.1"}
    assert search.trials[-1].failed.startswith("Training stopped: the loss is nan")
    assert len(learning.trained) == len({*learning.trained}) == 8 + 3 * 2 + 6  # none twice


def test_the_command_goes_on_where_its_time_was_over(
    recipe: Path, learning: Learning, tmp_path: Path, capsys
):
    command = ["tune", "-c", str(recipe), "--try", f"{RATE}=0.0001,0.03,1.0"]
    assert main([*command, "--minutes", "0"]) == 75
    assert "the same command continues it" in capsys.readouterr().out
    assert main(command) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out[out.index("rank") :].splitlines()[1:4]]
    assert [(row[3], row[4]) for row in rows] == [
        ("9", f"{RATE}=0.03"),
        ("1", f"{RATE}=1.0"),
        ("1", f"{RATE}=0.0001"),
    ]
    assert f"ppcls-lite train -c {recipe} -o {RATE}=0.03" in out
    assert len(learning.trained) == len({*learning.trained}) == 11
    folder = tmp_path / "output" / "tune"
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["Optimizer"]["lr"]["learning_rate"] == 0.03
    assert best["Global"]["output_dir"] == str(tmp_path / "output")
    with pytest.raises(UserError, match="another recipe or other settings"):
        tune(recipe, [f"{RATE}=0.1,0.2"])


def test_real_trainings_and_the_command_that_is_printed(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that wait say so in a line, one summary comes last, and the winner's command gives
    its score again."""
    shape = ["-o", "Global.epochs=2", "-o", "Optimizer.lr.warmup_epoch=0"]
    assert main(["tune", "-c", str(recipe), "--try", f"{RATE}=0.00001,0.02", *shape]) == 0
    out = capsys.readouterr().out
    assert out.count("Paused by tune after epoch 1 of 2") == 2
    last = out[out.index("rank") :]
    assert out.count("\nNext:\n") == 1 and "ppcls_lite INFO: [tune] 2 settings" in out
    assert re.search(rf"eval -c {tmp_path}/output/tune/trial_00[12]/PPLCNet_x0_25", last)
    assert "Nothing is lost" not in out
    (printed,) = [x for x in out.splitlines() if x.strip().startswith("ppcls-lite train")]
    score = float(out[out.index("rank") :].splitlines()[1].split()[2])
    assert main(shlex.split(printed)[1:]) == 0
    lines = (tmp_path / "output" / "PPLCNet_x0_25" / "metrics.jsonl").read_text().splitlines()
    scores = [r["top1"] for r in map(json.loads, lines) if r["kind"] == "eval"]
    assert len(scores) == 2 and max(scores) == pytest.approx(score, abs=1e-5)


def test_no_setting_is_judged_within_its_warm_up(recipe: Path, learning: Learning):
    rates = f"{RATE}=0.0001,0.03,1.0"
    search = tune(recipe, [rates], overrides=["Optimizer.lr.warmup_epoch=2"])
    assert [trial.epoch for trial in search.trials] == [9, 3, 3]


def test_mistakes_show_before_the_first_training(recipe: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="learning_rat"):
        tune(recipe, ["Optimizer.lr.learning_rat=0.1,0.2"])
    with pytest.raises(UserError, match="only one setting"):
        tune(recipe, [f"{RATE}=0.1"])
    with pytest.raises(ConfigError, match="compares scores"):
        tune(recipe, [f"{RATE}=0.1,0.2"], overrides=["Global.eval_during_train=false"])
    assert not (tmp_path / "output").exists()


def test_a_second_search_in_its_folder_is_refused(
    recipe: Path, learning: Learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_folder, "try_lock", lambda file: False)
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    with pytest.raises(UserError, match=r"tune belongs to a search of settings that is running"):
        tune(recipe, [f"{RATE}=0.1,0.3"])
    assert not learning.trained and not list(tmp_path.rglob("tune.json"))


def test_lists_are_combined_and_ranges_drawn():
    found = candidates(["a=1,2", "b=x,y,z"], None, 0)
    assert len(found) == 6 and found[0] == {"a": "1", "b": "x"}
    assert len(candidates(["a=1,2", "b=x,y,z"], 4, 0)) == 4
    drawn = [float(c["a"]) for c in candidates(["a=1e-4..1"], 200, 0)]
    assert len(drawn) == 200 and 1e-4 <= min(drawn) < 1e-3 and 0.1 < max(drawn) <= 1
    assert 60 < sum(value < 1e-2 for value in drawn) < 140  # evenly on a logarithmic scale
    assert candidates(["a=1e-4..1"], None, 1) == candidates(["a=1e-4..1"], None, 1)


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=1,,2", "a=1,1", "a=2..1", "a=0..1", "a=x..y"])
def test_what_is_no_key_with_values_is_refused(text: str):
    with pytest.raises(UserError, match="--try"):
        candidates([text], None, 0)


def test_the_python_function_is_public():
    assert ppcls_lite.tune is tune
