"""The benchmark of teachers by an engine, cut short."""

from __future__ import annotations

import re

from experiments.speed.teacher import run

SHORT = ["--steps", "1", "--rounds", "1", "--batch-size", "2", "--image-size", "32"]
SMALL = ["--teacher", "PPLCNet_x0_25", "--student", "PPLCNet_x0_25", "--engines", "paddle"]


def test_it_compares_the_network_with_its_engine(capsys):
    assert run([*SHORT, *SMALL]) == 0
    printed = capsys.readouterr().out
    speeds = re.findall(r"^(network|paddle) +([\d.]+) images/s", printed, re.M)
    assert [name for name, _ in speeds] == ["network", "paddle"]
    assert all(float(speed) > 0 for _, speed in speeds)
    assert run([*SHORT, *SMALL, "--at-least", "1000"]) == 1
