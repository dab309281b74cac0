"""The benchmark of the teacher cache, cut short."""

from __future__ import annotations

import re

from experiments.speed.distill import run

SHORT = ["--steps", "2", "--rounds", "1", "--batch-size", "2", "--image-size", "32"]
SMALL = ["--device", "cpu", "--teacher", "PPLCNet_x0_25"]


def test_it_measures_all_three_ways(capsys):
    assert run([*SHORT, *SMALL]) == 0
    printed = capsys.readouterr().out
    speeds = re.findall(r"^(teacher|filling|cache) +([\d.]+) images/s", printed, re.M)
    assert [way for way, _ in speeds] == ["teacher", "filling", "cache"]
    assert all(float(speed) > 0 for _, speed in speeds)
    assert re.search(r"cache [\d.]+ times as fast", printed)
    assert run([*SHORT, *SMALL, "--at-least", "1000"]) == 1
