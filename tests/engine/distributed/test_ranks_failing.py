"""One rank fails inside an epoch: all stop after the same update, which is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.record import VARYING
from tests.engine.distributed import failing_rank_program

PLACES = {"data": [2, 2], "forward": [2, 2], "metric": [2, 3], "optimizer": [2, 0]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, launch: Any) -> Path:
    home = tmp_path_factory.mktemp("failing")
    process = launch(home / "log", failing_rank_program.__file__, home)
    output, _ = process.communicate(timeout=120)
    logs = "".join(path.read_text() for path in (home / "log").glob("workerlog.*"))
    assert process.returncode == 0, output + logs
    return home


def records(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(n).items() if k not in VARYING} for n in lines]


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_one_rank_costs_no_update(home: Path, place: str) -> None:
    found = json.loads((home / "found.json").read_text())[place]
    assert found["saved"] == PLACES[place]  # a step of the optimizer cannot be taken back
    (first, status), (second, _) = found["raised"]
    assert status == 75  # that of the rank that failed: a restart may well succeed
    assert second == f"TryAgainError: no {place} here"
    assert first.startswith("StoppedError: rank 1 on ")
    assert first.endswith(f"has stopped this run: no {place} here")


@pytest.mark.parametrize("place", ("data", "forward", "optimizer"))
def test_the_resumed_run_is_equal(home: Path, place: str) -> None:
    whole, resumed = (checkpoint.load(home / d / "latest")["model"] for d in ("whole", place))
    assert {k: v.tobytes() for k, v in whole.items()} == {
        k: v.tobytes() for k, v in resumed.items()
    }
    assert records(home / "whole") == records(home / place)
