"""The proof of the search: what is dealt, asked for and put into the table; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.search import folds, pays, prices, prove
from ppcls_lite.config.check import build
from ppcls_lite.errors import UserError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The searches; a network that was found is slower than asked and scores 0.7, a scale 0.6."""
    searches: list[list[str]] = []

    def toolkit(*arguments: str) -> None:
        if arguments[0] == "search":
            searches.append(list(arguments))
            place = Path(arguments[arguments.index("--output") + 1])
            place.mkdir(parents=True)
            arch = {"name": "PPLCNet", "class_num": 4, "depths": [1, 1, 1, 1, 1]}
            tree = {"Arch": {**arch, "pretrained": "x"}, "Global": {"image_size": 24}}
            (place / "recipe.yaml").write_text(yaml.safe_dump(tree))
            (place / "report.md").write_text("done")
            return
        own = yaml.safe_load(Path(arguments[2]).read_text())
        records = Path(own["Global"]["output_dir"], own["Arch"]["name"], "metrics.jsonl")
        records.parent.mkdir(parents=True, exist_ok=True)
        score = (0.7 if own["Arch"]["name"] == "PPLCNet" else 0.6) + own["Global"]["seed"] / 100
        rows = [{"kind": "train"}, {"kind": "eval", "top1": score, "loss": 1 - score}]
        records.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def latencies(networks: list[tuple[dict[str, Any], int]], setting: Any) -> list[float]:
        ms = [3.0 if arch["name"] == "PPLCNet" else 2.0 for arch, _ in networks]
        return [setting.threads * one for one in ms]

    for module in (prove, folds):
        monkeypatch.setattr(module, "toolkit", toolkit)
        monkeypatch.setattr(module, "latencies", latencies)
    return searches


def test_every_fold_is_searched_at_the_latency_of_the_scale(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("train_list", 30), ("test_list", 6)):
        lines = [f"{name}/{i}.jpg {i % 4}\n" for i in range(count)]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    command = ["--data", str(tmp_path), "--targets", "PPLCNet_x0_25"]
    command += ["--methods", "scale", "evolution", "--output", str(tmp_path / "out")]
    command += ["--also", "paddle:fp32:2"]
    assert prove.main(command) == 0
    limits = [words[words.index("--latency") + 1] for words in asked]
    assert limits == ["PPLCNet_x0_25"] * 3  # measured beside the candidates
    assert all("Search.strategy=evolution" in words for words in asked)
    held = [(tmp_path / "out" / f"fold{i}" / "test.txt").read_text().split("\n") for i in range(3)]
    every = [line for lines in held for line in lines if line]
    assert len(every) == len(set(every)) == 36
    out = capsys.readouterr().out
    assert "| PPLCNet_x0_25 | 61.00 | 0.58 | 2.000 | 4.000 |" in out
    assert "| PPLCNet_x0_25: evolution | 71.00 | 0.58 | 3.000 | 6.000 |" in out
    assert prove.main([*command, "--seeds", "2"]) == 0 and len(asked) == 3  # nothing twice
    out = capsys.readouterr().out
    assert "| PPLCNet_x0_25 | 62.50 | 0.58 |" in out  # of seeds 0 and 3, 1 and 4, 2 and 5


def test_searches_of_as_many_candidates_are_not_given_time(
    asked: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "train_list.txt").write_text("".join(f"{i}.jpg {i % 4}\n" for i in range(12)))
    command = ["--data", str(tmp_path), "--targets", "PPLCNet_x0_25", "--folds", "0"]
    command += ["--methods", "random", "filled", "--output", str(tmp_path / "out")]
    assert prove.main([*command, "--candidates", "22"]) == 0
    by_chance, filled = asked
    for words in asked:
        assert "--minutes" not in words and "Search.supernet_epochs=0" in words
        assert {"Search.population=6", "Search.generations=4"} <= set(words)
    assert "Search.strategy=random" in by_chance and "Search.fill=0.8" in filled
    elsewhere = ["--output", str(tmp_path / "few")]
    fewer = ["--candidates", "9", "--finalists", "6", "--rungs", "3"]
    assert prove.main([*command, *elsewhere, *fewer]) == 0
    assert {"Search.population=5", "Search.generations=2"} <= set(asked[-1])  # 4 at least
    assert "Search.finalists=6" in asked[-1] and "Search.rungs=3" in asked[-1]
    assert "Search.rungs=2" in filled and "Search.finalists=3" in filled


def test_a_search_is_taught_by_those_of_its_fold(asked: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "train_list.txt").write_text("".join(f"{i}.jpg {i % 4}\n" for i in range(12)))
    command = ["--data", str(tmp_path), "--targets", "PPLCNet_x0_25", "--folds", "1"]
    command += ["--methods", "taught", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="the method taught needs --teachers"):
        prove.main(command)
    for fold in (0, 1):
        teacher = tmp_path / "small" / f"fold{fold}" / "PPLCNet_x0_25_random"
        teacher.mkdir(parents=True)
        (teacher / "journal.jsonl").write_text("")
    assert prove.main([*command, "--teachers", str(tmp_path / "small")]) == 0
    assert f'Search.learn_from=["{teacher}"]' in asked[0] and "Search.sieve=learned" in asked[0]


def test_a_training_never_sees_what_scores_it(tmp_path: Path) -> None:
    parts = folds.dealt(100)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    (tmp_path / "train_list.txt").write_text("".join(f"{i}.jpg {i % 3}\n" for i in range(100)))
    recipe = folds.recipe_of(tmp_path / "fold1", tmp_path, 1, 32, 40)
    kept, held = ((tmp_path / "fold1" / f"{n}.txt").read_text().split() for n in ("train", "test"))
    assert not {*kept[::2]} & {*held[::2]} and len(held) // 2 == len(parts[1])
    tree = yaml.safe_load(recipe.read_text())
    assert tree["Arch"]["class_num"] == 3 and tree["Global"]["epochs"] == 40
    assert tree["DataLoader"]["Eval"]["dataset"]["image_root"] == str(tmp_path)


def test_prices_are_laid_beside_the_long_training() -> None:
    networks = [{"ms": ms, "parameters": 10 * ms} for ms in (1.0, 2.0, 3.0)]
    short = [{"top1": top1, "loss": 2 - top1} for top1 in (0.1, 0.3, 0.2)]
    whole = [{"top1": top1, "loss": 3 + top1} for top1 in (0.5, 0.7, 0.6)]
    text = "\n".join(prices.table(networks, ["short", "whole"], [*zip(short, whole)]))
    assert "| parameters | 0.33 | -0.33 |" in text
    assert "| short, top-1 | 1.00 | -1.00 |" in text
    assert "| short, loss | 1.00 | -1.00 |" in text
    assert "2.000 ms, 20.0 parameters: 30.00, 70.00" in text


def test_prices_are_divided_and_nothing_is_trained_twice(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train_list.txt").write_text("".join(f"{i}.jpg {i % 4}\n" for i in range(12)))
    output = tmp_path / "out"
    command = ["--data", str(tmp_path), "--output", str(output), "--prices", "1:16:0"]
    with pytest.raises(UserError, match="share 0 draws the networks"):
        prices.main([*command, "--share", "1/2"])
    output.mkdir()
    arch = {"name": "PPLCNet", "class_num": 4, "depths": [1, 1, 1, 1, 1]}
    rows = [{"arch": arch, "ms": 1.0, "parameters": 5}, {"arch": arch, "ms": 2.0, "parameters": 6}]
    (output / "networks.json").write_text(json.dumps(rows))
    for share, said in (("0/2", "2 trainings of other shares are left"), ("1/2", "Kendall's tau")):
        assert prices.main([*command, "--share", share]) == 0
        assert said in capsys.readouterr().out
    own = yaml.safe_load((output / "1" / "1_16_0" / "recipe.yaml").read_text())
    assert own["Global"] | {"epochs": 1, "image_size": 16, "eval_interval": 1} == own["Global"]
    assert own["Optimizer"]["lr"]["warmup_epoch"] == 0
    before = len(list(output.rglob("score.json")))
    assert before == 4 and prices.main(command) == 0


def test_what_pays_over_several_searches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores count as points above the mean of their search."""
    space = build(prove.SPACES["default"], "space")
    for search, level in enumerate((0.2, 0.6)):
        lines = []
        for number in range(6):
            stem = (8, 16)[number % 2]
            value = {"candidate": space.canonical({**space.largest(), "stem": stem}), "ms": 1.0}
            lines += [{"kind": "whole", "key": str(number), "value": value}]
            score = level + (0.03 if stem == 16 else 0) + number // 2 / 100
            lines += [{"kind": "score", "key": str(number), "value": score}]
        file = tmp_path / str(search) / "journal.jsonl"
        file.parent.mkdir()
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert pays.main([str(tmp_path), "--slots", "stem"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("12 candidates") and out.count("\n| ") == 2
    assert "| stem | 8: -1.5 (6), 16: +1.5 (6) | 3.0 | 0.5 |" in out
    assert "scores learned from all others: Kendall's tau 0.7" in out  # they have no other choice
    assert "half of its own" not in out  # six have no halves that say something
    with pytest.raises(UserError, match="no search with 6 scored candidates in 0 journals"):
        pays.main([str(tmp_path / "nothing")])
