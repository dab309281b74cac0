"""Prediction of a list through kills: the short form of experiments/cluster/prediction.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cluster import prediction
from experiments.cluster.prediction import Cluster, Report
from experiments.serve_soak import export
from ppcls_lite.system.installed import missing

ROWS = 4000


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "EACH", 200)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network") / "model"
    export(folder)
    return folder


def test_processes_that_are_killed(model: Path, tmp_path: Path) -> None:
    source = prediction.write_rows(tmp_path / "rows", ROWS)
    report = prediction.run(model, source, ROWS, kills=2)
    assert report.kills == {"command": 1, "process": 1} and report.starts == 3
    assert report.answers == ROWS and report.wrong == []


@pytest.mark.skipif(missing("ray") is not None, reason=f"{missing('ray')}")
def test_a_node_of_a_cluster_that_is_killed(model: Path, tmp_path: Path) -> None:
    source = prediction.write_rows(tmp_path / "rows", ROWS)
    with Cluster() as cluster:
        report = prediction.run(model, source, ROWS, kills=1, cluster=cluster)
    assert report.kills == {"node": 1} and report.starts == 1
    assert report.answers == ROWS and report.wrong == []


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    source = prediction.write_rows(tmp_path / "rows", 3)
    answers = tmp_path / "answers"
    answers.mkdir()
    rows = [f'{{"file": "{source.parent}/000000/00{i}.png", "class_ids": [1]}}' for i in range(3)]

    def wrong(*lines: str) -> str:
        (answers / "part-000000.jsonl").write_text("".join(f"{line}\n" for line in lines))
        report = Report()
        prediction.check(source, answers, report)
        return "; ".join(report.wrong)

    assert wrong(*rows) == "other images are unreadable than those that are"
    assert "002.png has no answer" in wrong(*rows[:2])
    assert "000.png in the place of" in wrong(rows[0], rows[0], rows[1])
    assert "None" in wrong(*rows, rows[2])
