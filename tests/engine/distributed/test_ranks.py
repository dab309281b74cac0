"""Two processes over gloo compute what one does: gradients, evaluation, averages in the log."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ppcls_lite.engine.distributed import LostRankError, World
from ppcls_lite.system import safe_pickle
from tests.engine.distributed import rank_program

Runs = dict[int, tuple[dict[str, Any], dict[str, np.ndarray], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, launch: Any) -> Runs:
    """The run in one process and in two: result, weights, records."""
    home = tmp_path_factory.mktemp("ranks")
    two = launch(home / "log", rank_program.__file__, home / "2")
    rank_program.run(World(), home / "1")
    output, _ = two.communicate(timeout=120)
    assert two.returncode == 0, output
    found = {}
    for size in (1, 2):
        folder = home / str(size)
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found[size] = (
            json.loads((folder / "result.json").read_text(encoding="utf-8")),
            safe_pickle.load(folder / "latest.pdparams"),
            [json.loads(line) for line in lines],
        )
    return found


def test_two_times_16_images_teach_what_32_do(runs: Runs) -> None:
    one, two = runs[1][1], runs[2][1]
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=2e-5, err_msg=name)


def test_the_losses_in_the_log_are_those_of_all_images(runs: Runs) -> None:
    one, two = ([r for r in runs[size][2] if r["kind"] != "eval"] for size in (1, 2))
    assert len(one) == len(two) == 2 * 3 + 2
    for first, second in zip(one, two):
        assert first["CELoss"] == pytest.approx(second["CELoss"], rel=1e-4)
        assert first["top1"] == pytest.approx(second["top1"])


def test_an_evaluation_counts_every_image_once(runs: Runs) -> None:
    one, two = runs[1][0], runs[2][0]
    assert np.sum(one["matrix"]) == np.sum(two["matrix"]) == 33
    assert one["matrix"] == two["matrix"]
    assert one["first"] == pytest.approx(two["first"], rel=1e-4)
    assert list(one["first"]) == list(two["first"])


def test_all_ranks_hold_the_same_network(runs: Runs) -> None:
    first, second = runs[2][0]["everywhere"]
    assert first == second
    assert runs[2][0]["from_main"] == ["made by rank 0"] * 2


def test_a_rank_that_is_lost_without_a_word_is_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = "rank 1 has stopped this run: no such file"
    for told, status in ((None, 75), ((said, 1), 1), ((said, 75), 75)):
        monkeypatch.setattr(World, "_told", lambda self, told=told: told)
        with pytest.raises(LostRankError) as caught, World(0, 2)._connected():
            raise RuntimeError("connection closed by peer")
        assert caught.value.exit_code == status
