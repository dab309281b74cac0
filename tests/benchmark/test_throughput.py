"""Images a second of all cores together: every way is run, and the table tells the best."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ppcls_lite.benchmark import cli
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.benchmark.throughput import Rate, table
from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.models.create import create_model
from ppcls_lite.system.machine import usable_processors


def rate(engine: str, processes: int, batch: int, speed: float, alone: bool = False) -> Rate:
    setting = Setting(engine, "fp32", 1 if processes > 1 or alone else 4)
    return Rate("net", setting, processes, batch, alone, [speed - 1, speed, speed + 50])


def test_the_table_sets_what_is_reached_against_the_sum_of_the_cores():
    rates = [rate("paddle", 4, 1, 300), rate("paddle", 4, 8, 360), rate("paddle", 1, 8, 200)]
    rates += [rate("paddle", 1, 1, 90, alone=True), rate("paddle", 1, 8, 100, alone=True)]
    lines = table(rates, cores=4)
    rows = [line for line in lines if line.startswith("| paddle")]
    assert rows[0] == "| paddle fp32 | 4 x 1 | 8 | 360.0 | 90% |"
    assert rows[-1] == "| paddle fp32 | 1 x 4 | 8 | 200.0 | 50% |" and len(rows) == 3
    (best,) = [line for line in lines if line.startswith("The most")]
    assert best.endswith(
        "4 processes, each with --engine paddle --precision fp32 --threads 1 --batch-size 8"
    )


def test_every_way_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    network = create_model("PPLCNet_x0_25", class_num=2)
    network.eval()
    steps = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    export_model(network, tmp_path / "net", (3, 32, 32), steps, {"Topk": {"topk": 1}})
    options = ["--model", str(tmp_path / "net"), "--mode", "throughput", "--engines", "paddle"]
    assert cli.run([*options, "--batch-sizes", "1", "2", "--rounds", "1", "--seconds", "0"]) == 0
    shown = capsys.readouterr().out
    found = re.findall(r"^\| paddle fp32 \| (\d+) x (\d+) \| (\d+) \| ([\d.]+) \|", shown, re.M)
    cores = len(usable_processors())
    ways = {(cores, 1, 1), (cores, 1, 2), (1, cores, 1), (1, cores, 2)}
    assert {tuple(map(int, row[:3])) for row in found} == ways
    assert all(float(row[3]) > 0 for row in found)


def test_what_it_has_no_use_for_is_refused():
    with pytest.raises(UserError, match=r"--mode throughput: has no --threads"):
        cli.run(["--arch", "PPLCNet_x0_25", "--mode", "throughput", "--threads", "1"])
