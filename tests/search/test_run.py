"""A whole search on a tiny space; interruptions, budgets, mistakes."""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.cli import main
from ppcls_lite.config.check import build
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.settings import SearchSettings
from ppcls_lite.engine import run_folder
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.search import judge, report, run
from ppcls_lite.search.budget import Budget
from ppcls_lite.search.held_out import split
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.run import Costs, _Search, planned, search
from ppcls_lite.search.space import digest

SETTING = Setting("paddle", "fp32", 1)


def look(tree: dict[str, Any], folder: Path, target: float | str = 1.0) -> Any:
    return search(copy.deepcopy(tree), target, SETTING, [0], folder)


def begun(tree: dict[str, Any], folder: Path, target: float) -> _Search:
    folder.mkdir()
    searching = _Search(Recipe.of(tree), World(), target, folder)
    searching.open(SETTING, [0])
    return searching


def test_a_search_from_start_to_recipe(
    tree: dict[str, Any], tmp_path: Path, meter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trained = tmp_path / "found", []
    real = judge.ProxyJudge.score

    def interrupted(self: Any, candidate: Any, epochs: int, weights: Path) -> float:
        if trained:
            raise KeyboardInterrupt
        trained.append(candidate)
        return real(self, candidate, epochs, weights)

    monkeypatch.setattr(judge.ProxyJudge, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(tree, folder)
    measured = list(meter.asked)
    assert len(set(measured)) == len(measured)  # nothing twice
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    scores = {e["key"]: e["value"] for e in entries if e["kind"] == "score"}
    assert len(scores) == 4  # 2 x 2 candidates
    drawn = {e["key"]: e["value"] for e in entries if e["kind"] == "generation"}
    assert [*drawn] == ["0"] and {digest(one) for one in drawn["0"]} == set(scores)

    monkeypatch.setattr(judge.ProxyJudge, "score", real)
    monkeypatch.setattr(judge.SupernetJudge, "_score", None)  # all of it is known
    result = look(tree, folder)
    assert meter.asked == measured
    best = result.finalists[0]
    assert [len(f.rungs) for f in result.finalists] == [1, 1]
    assert best.rungs[0] >= result.finalists[1].rungs[0] and best.ms <= 1.03
    found = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert "Search" not in found and Recipe.of(found).settings.Arch.entry.name == "PPLCNet"
    assert found["DataLoader"]["Train"]["dataset"] == tree["DataLoader"]["Train"]["dataset"]
    assert Path(found["Arch"]["pretrained"]).is_file()
    text = report.text(result, folder)
    assert f"{best.ms:.2f} ms" in text and "Kendall's tau" in text
    assert report.picture(result).count("<circle") == len(result.measured) + 1

    with pytest.raises(UserError, match=r"for something else \(target: 1.0 there, 2.0 now\)"):
        look(tree, folder, target=2.0)


def test_a_termination_ends_it_like_ctrl_c(
    tree: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    before = signal.getsignal(signal.SIGTERM)

    def told_to_end(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("ppcls_lite.search.run.search", told_to_end)
    arguments = ["--latency", "1ms", "--engine", "paddle", "--output", str(tmp_path / "out")]
    assert main(["search", "-c", str(recipe), *arguments]) == 143
    assert "terminated" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_search_in_its_folder_is_refused(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "try_lock", lambda file: False)
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    with pytest.raises(UserError, match=r"found belongs to a search that is running.* --output"):
        look(tree, tmp_path / "found")
    assert not any((tmp_path / "found").iterdir())


def test_a_budget_that_nobody_meets_names_the_fastest(
    tree: dict[str, Any], tmp_path: Path, meter: Any
) -> None:
    with pytest.raises(UserError, match=r"no candidate takes 0.1 ms or less; the fastest .* takes"):
        look(tree, tmp_path / "found", target=0.1)
    assert not (tmp_path / "found" / "recipe.yaml").exists()


def test_a_latency_that_is_neither_a_number_nor_a_network(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    asked = ["search", "-c", str(recipe), "--engine", "paddle", "--output", str(folder)]
    for words, expected in (
        ("1.5mss", "expected milliseconds as in 2ms, found '1.5mss' (or a network as in PPLCNet_"),
        ("PPLCNet_x05", "there is no model 'PPLCNet_x05'; did you mean 'PPLCNet_x0_5'?"),
    ):
        assert main([*asked, "--latency", words]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "--latency: " in error and expected in error
        assert not folder.exists()
    for words, expected in (
        ("0", "expected a whole number from 1 on"),
        ("5000", "expected at most"),
    ):
        with pytest.raises(SystemExit):
            main([*asked, "--latency", "1ms", "--threads", words])
        assert f"--threads: {expected}" in capsys.readouterr().err


def test_a_search_for_the_latency_of_a_network(
    tree: dict[str, Any], tmp_path: Path, meter: Any
) -> None:
    """Which is a point of the space here: it takes all of its own latency."""
    tree["Search"]["space"] |= {"stem": [4, 8], "widths": [[8], [16], [32], [64], [128]]}
    tree["Search"]["space"] |= {"depths": [[1], [2], [2], [6], [2]], "kernels": [3, 5]}
    tree["Search"]["space"] |= {"attention": "tail", "expand": [1280]}
    folder = tmp_path / "found"
    result = look(tree, folder, target="PPLCNet_x0_25")
    assert result.asked == f"{result.target:.4g} ms (PPLCNet_x0_25)"
    assert all(ms <= 1.03 * result.target for ms, _ in result.measured)
    text = report.text(result, folder)
    assert text.startswith(f"# A network of {result.asked} with paddle fp32, 1 thread\n")
    share = result.finalists[0].ms / result.target
    assert f"({share:.0%} of the target)" in text
    with pytest.raises(UserError, match=r"target: PPLCNet_x0_25 there, 1.0 now"):
        look(tree, folder)


def test_a_second_bound_that_nobody_meets_names_the_smallest(
    tree: dict[str, Any], tmp_path: Path, meter: Any
) -> None:
    tree["Search"] = {**(tree.get("Search") or {}), "max_parameters": 100}
    with pytest.raises(UserError, match=r"no candidate has 100 parameters or fewer; the smallest"):
        look(tree, tmp_path / "found")


def test_a_second_bound_is_kept(tree: dict[str, Any], tmp_path: Path, meter: Any) -> None:
    one = begun(copy.deepcopy(tree), tmp_path / "a", 9.0)
    space = one.space
    sizes = [one.networks.parameters(c) for c in (space.smallest(), space.largest())]
    assert one.budget.kept([space.smallest(), space.largest()]) == [True, True]
    tree["Search"] = {**(tree.get("Search") or {}), "max_parameters": sizes[1] - 1}
    two = begun(tree, tmp_path / "b", 9.0)
    two.budget.calibrate(0)
    assert sizes[0] < sizes[1]
    assert two.budget.kept([space.smallest(), space.largest()]) == [True, False]


def test_candidates_fill_the_target(tree: dict[str, Any], tmp_path: Path, meter: Any) -> None:
    """By the sum of pieces and as a whole; a target that none fills asks for the slowest ones."""

    def budget(target: float) -> Any:
        one = begun(tree, tmp_path / f"{target}", target)
        one.budget.calibrate(0)
        ends = [one.space.smallest(), one.space.largest()]
        times = [*one.budget.whole(ends).values()]
        return one.budget, ends, times

    tree["Search"] = {**tree["Search"], "fill": 0.9}
    _, _, (fastest, slowest) = budget(9.0)
    assert fastest < 0.9 * slowest
    for target, expected in ((slowest, [False, True]), (fastest, [True, False])):
        found, ends, _ = budget(target)
        assert found.fits(ends, 2) == expected
        assert found.kept(ends)[expected.index(True)]  # an estimate keeps what it may misjudge
    found, ends, _ = budget(100 * slowest)
    assert found.fits(ends, 1) == [False, True]


def test_no_more_is_measured_than_asked_for(
    tree: dict[str, Any], tmp_path: Path, meter: Any
) -> None:
    """As wholes; of a network without pieces there is no estimate that would cost one more."""
    keys = {"class_expand": [*range(8, 48)]}
    expands = {"name": "ArchSpace", "network": "PPLCNet", "keys": keys}
    for number, space in enumerate(({"name": "PPLCNetSpace"}, expands)):
        tree["Search"] = {"space": space}
        one = begun(tree, tmp_path / f"{number}", 1e3)
        rng, drawn = np.random.default_rng(0), {}
        while len(drawn) < 12:
            candidate = one.space.draw(rng)
            drawn[digest(candidate)] = candidate
        kept = one.budget.fits([*drawn.values()], 5)
        assert kept == [True] * 5 + [False] * 7
        whole = [name for name in meter.asked if name.startswith("PPLCNet ")]
        assert len(whole) == 5 * (number + 1) == len(set(whole))
        assert one.budget.adds_up is (number == 0)


def test_a_search_learns_from_another(
    tree: dict[str, Any], tmp_path: Path, meter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    look(tree, tmp_path / "first")
    tree["Search"]["learn_from"] = [str(tmp_path / "first")]
    with pytest.raises(UserError, match=r"only the sieve `learned` learns, .* null; add"):
        look(tree, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    caplog.set_level(logging.INFO, "ppcls_lite")
    tree["Search"] |= {"sieve": "learned", "sieve_keeps": 0.5}
    assert look(tree, tmp_path / "second").finalists
    assert f"learns from 4 candidates in {tmp_path / 'first'}" in caplog.text
    tree["Search"]["learn_from"] = []
    with pytest.raises(UserError, match=r"for something else \(learn_from: .*first there, None"):
        look(tree, tmp_path / "second")


def test_a_recipe_of_another_family_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["Arch"] = {"name": "MobileNetV1", "class_num": 3}
    with pytest.raises(ConfigError, match=r"Arch.name: is MobileNetV1, but PPLCNetSpace"):
        look(tree, tmp_path / "found")


def test_images_are_held_out_of_the_training_list(tree: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.of(tree)
    made, judging = split(recipe, 0.25, 0, tmp_path / "a")
    assert judging.startswith("held out of the training list")
    lists = [Path(made["DataLoader"][s]["dataset"]["cls_label_path"]) for s in ("Train", "Eval")]
    kept, held = (path.read_text().splitlines() for path in lists)
    source = Path(tree["DataLoader"]["Train"]["dataset"]["cls_label_path"]).read_text()
    assert sorted(kept + held) == sorted(source.splitlines()) and not {*kept} & {*held}
    assert sorted(line.split()[-1] for line in held) == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    split(recipe, 0.25, 1, tmp_path / "b")
    assert (tmp_path / "b" / "held_out.txt").read_text() != (lists[1]).read_text()


def test_images_that_are_missing_are_named_before_anything_is_measured(
    tree: dict[str, Any], tmp_path: Path, meter: Any
) -> None:
    for key, expected in (
        ("cls_label_path", "there is no file"),
        ("image_root", "no image folder"),
    ):
        wrong = copy.deepcopy(tree)
        wrong["DataLoader"]["Train"]["dataset"][key] = str(tmp_path / "nowhere")
        with pytest.raises(UserError, match=rf"DataLoader\.Train\.dataset.*{expected}.*nowhere"):
            look(wrong, tmp_path / key)
    assert not meter.asked


def test_names_with_rare_characters_are_held_out_whole(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    """Which Python takes for the ends of lines."""
    names = [f"a\x85{number}\u2028b.png 0" for number in range(10)]
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    tree["DataLoader"]["Train"]["dataset"]["cls_label_path"] = str(path)
    split(Recipe.of(tree), 0.2, 0, tmp_path / "data")
    texts = [(tmp_path / "data" / name).read_text() for name in ("train.txt", "held_out.txt")]
    assert sorted("".join(texts).split("\n")) == ["", *names]
    assert [text.count("\n") for text in texts] == [8, 2]


def test_the_ranks_share_what_is_to_be_scored() -> None:
    class Rank:
        size = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def gather(self, value: Any) -> list[Any]:
            parts[self.rank] = value
            return parts

    parts: list[Any] = [{}, {}]
    candidates = [{"width": width} for width in (8, 16, 24)]
    for rank in (0, 1):
        one = object.__new__(judge.SupernetJudge)
        one.world = Rank(rank)
        one._score = lambda candidate: float(candidate["width"])  # type: ignore[method-assign]
        if rank:
            assert one.score(candidates) == [8.0, 16.0, 24.0]
        else:
            with pytest.raises(KeyError):  # the other half comes from the other rank
                one.score(candidates)
    assert [len(part) for part in parts] == [2, 1]


def test_short_trainings_score_where_there_is_no_supernet(
    tree: dict[str, Any], tmp_path: Path, meter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each candidate that keeps to the target, measured as a whole, is trained from nothing."""
    asked = []

    def trained(
        self: Any, candidate: Any, epochs: int, weights: Path | None = None, scale: float = 1
    ) -> float:
        asked.append((epochs, scale))
        assert weights is None
        run = self.run_dir(candidate, epochs)
        run.mkdir(parents=True)
        (run / "best_model.pdparams").write_bytes(b"weights")
        return candidate["width6"] / 100 + epochs / 1000

    monkeypatch.setattr(judge.ProxyJudge, "score", trained)
    monkeypatch.setattr(judge.SupernetJudge, "train", None)
    monkeypatch.setattr(judge.SupernetJudge, "_score", None)
    none = {"supernet_epochs": 0, "score_epochs": 1, "proxy_epochs": 2, "finalists": 2, "rungs": 2}
    none["score_scale"] = 0.5
    tree["Search"] = {**tree["Search"], **none}
    result = look(tree, tmp_path / "found")
    scored, first, second = (asked.count(one) for one in ((1, 0.5), (2, 1), (4, 1)))
    assert len(asked) == scored + first + second and scored >= first == 2 and second == 1
    assert result.finalists[0].candidate["width6"] == max(
        f.candidate["width6"] for f in result.finalists
    )
    assert all(ms <= 1.03 for ms, _ in result.measured)
    text = report.text(result, tmp_path / "found")
    assert "score by a short training" in text and "supernet" not in text
    assert (tmp_path / "found" / "weights.pdparams").read_bytes() == b"weights"


@pytest.mark.parametrize("length", [{"epochs": 20}, {"iters": 60, "epochs": None, "eval_steps": 3}])
def test_short_trainings_have_as_much_shorter_a_warm_up(
    tree: dict[str, Any], tmp_path: Path, length: dict[str, Any]
) -> None:
    """Of the recipe's 20 epochs of three updates a quarter, and so of its warm-up."""
    tree["Global"] |= length
    tree["Optimizer"]["lr"]["warmup_epoch"] = 8
    networks = Networks(Recipe.of(tree), build(tree["Search"]["space"], "space"), (3, 16, 16))
    proxies = judge.ProxyJudge(tree, networks, True, tmp_path / "networks", 20)
    candidate = networks.space.smallest()
    assert 0 <= proxies.score(candidate, 5) <= 1
    folder = proxies.run_dir(candidate, 5)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(record["epoch"] for record in records) == 5
    kept = yaml.safe_load((folder.parent / "recipe.yaml").read_text())
    assert kept["Optimizer"]["lr"]["warmup_epoch"] == 2
    assert tree["Optimizer"]["lr"]["warmup_epoch"] == 8

    supernet = judge.SupernetJudge(Recipe.of(tree), networks, World(), tmp_path)
    assert supernet.whole_epochs == 20
    supernet.train(5)
    supernet.close()
    assert supernet.schedule.warmup == 2 * 3


def test_a_training_that_scores_may_have_smaller_images(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["Search"]["space"]["sizes"] = [16, 24]
    networks = Networks(Recipe.of(tree), build(tree["Search"]["space"], "space"), (3, 16, 16))
    proxies = judge.ProxyJudge(tree, networks, True, tmp_path / "networks", 20)
    candidate = networks.space.largest()
    for scale, edge in ((1.0, 24), (0.5, 12)):
        assert 0 <= proxies.score(candidate, 1, scale=scale) <= 1
        kept = yaml.safe_load((proxies.run_dir(candidate, 1, scale).parent / "recipe.yaml").open())
        assert kept["Global"]["image_size"] == edge


def test_a_warm_up_in_updates_is_shortened_and_never_grows() -> None:
    tree = {"Optimizer": {"lr": {"name": "Cosine", "warmup_steps": 500}}}
    assert judge.with_length(tree, 3, 12)["Optimizer"]["lr"]["warmup_steps"] == 125
    assert judge.with_length(tree, 24, 12)["Optimizer"]["lr"]["warmup_steps"] == 500


def test_the_plan_fits_the_minutes() -> None:
    wanted = SearchSettings()
    plan = planned(wanted, 120, Costs(20.0, 3.0, 7.0))
    assert (plan.supernet_epochs, plan.population, plan.generations) == (144, 37, 8)
    assert 0.3 * 7200 < 3 * 8 * plan.proxy_epochs * 7.0 + 128 <= 0.4 * 7200
    assert planned(wanted, 1200, Costs(20.0, 3.0, 7.0)).population == wanted.population


def test_a_short_time_is_not_spent_on_a_supernet() -> None:
    wanted = SearchSettings()
    plan = planned(wanted, 20, Costs(90.0, 3.0, 11.0))
    assert (plan.supernet_epochs, plan.rungs, plan.proxy_epochs) == (0, 2, 6)
    assert plan.generations > 1  # or evolution would be chance
    scores = plan.population * plan.generations * (3 * 11.0 + 8)
    assert 0.4 * 1200 < scores <= 0.6 * 1200
    last = plan.finalists * 2 * 6 * 11.0
    assert 0.25 * 1200 < last <= 0.4 * 1200
    tiny = planned(wanted, 0.1, Costs(90.0, 3.0, 11.0))
    assert (tiny.population, tiny.generations, tiny.finalists) == (8, 1, 2)


def test_measuring_counts_as_time(
    tree: dict[str, Any], tmp_path: Path, meter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, given = Budget.calibrate, []

    def slow(self: Budget, seed: int) -> None:
        time.sleep(0.6)
        real(self, seed)

    def noted(wanted: SearchSettings, minutes: float, costs: Costs) -> SearchSettings:
        given.append(minutes)
        return wanted

    monkeypatch.setattr(Budget, "calibrate", slow)
    monkeypatch.setattr(run, "planned", noted)
    for minutes in (2.0, 0.005):
        search(copy.deepcopy(tree), 1.0, SETTING, [0], tmp_path / str(minutes), minutes)
    assert 1.0 < given[0] <= 1.99 and given[1] == 0.0


def test_the_order_of_two_lists() -> None:
    assert report.kendall([1, 2, 3], [10, 20, 30]) == 1.0
    assert report.kendall([1, 2, 3], [3, 2, 1]) == -1.0
    assert report.kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert report.kendall([1, 1], [1, 2]) is None
    assert report.front([(2, 0.5), (1, 0.4), (3, 0.5), (1, 0.3)]) == [(1, 0.4), (2, 0.5)]
