"""`benchmark.py networks`: a line for each network, ratios round by round, a file at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.speed import networks
from experiments.speed.networks import NETWORKS, Network
from experiments.speed.table import Measured, Row
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError

SMALL = ["--batch-size", "2", "--image-size", "32", "--steps", "1", "--rounds", "1"]
FOUND = {
    Row("train", "Paddle", "stock", 1, 1): Measured([10, 20, 10], [0.1] * 3),
    Row("train", "one", "toolkit", 1, 1): Measured([30, 70, 40], [0.03] * 3),
    Row("train", "all", "toolkit", 1, 2): Measured([50, 90, 40], [0.02] * 3),
    Row("train", "two", "toolkit", 2, 1): Measured([60, 100, 50], [0.02] * 3),
}


def test_the_networks_are_twelve_of_the_zoo() -> None:
    assert len(NETWORKS) == 12 and set(NETWORKS) <= set(ZOO)


def test_a_line() -> None:
    assert networks.line("A", 8, FOUND) == "| A | 8 | 10.0 | 3.50x | 4.50x | 5.00x |"
    first, second = networks.header(list(FOUND))
    assert first == "| | batch | Paddle, images/s | one | all | two |".replace("| |", "|  |")
    assert first.count("|") == second.count("|")


def test_what_is_aimed_at() -> None:
    aims = networks.aims(Network(8, alone=2.5), FOUND)
    assert {row.name: aim for row, aim in aims.items()} == {"one": 2.5, "all": 4.5}


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out" / "networks.md"
    assert networks.run(["--arch", "PPLCNet_x0_25", *SMALL, "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("| PPLCNet_x0_25 | 2 |"))
    assert line in file.read_text(encoding="utf-8")
    assert all(float(cell.strip().rstrip("x")) > 0 for cell in line.split("|")[2:-1])


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        networks.run(["--output", str(tmp_path / "file" / "networks.md")])
