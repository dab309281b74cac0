from __future__ import annotations

import pytest

from experiments.speed import train
from ppcls_lite.errors import UserError

TINY = [*("--batch-size", "2", "--image-size", "32"), *("--steps", "2", "--rounds", "1")]


def test_two_processes_are_compared_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.run([*TINY, "--processes", "1", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("1 processes:") and "images/s" in lines[1]
    assert lines[2].startswith("2 processes:")
    assert lines[3].startswith("2 / 1 processes:") and "x by the clock" in lines[3]


def test_one_number_is_no_comparison() -> None:
    with pytest.raises(UserError, match="two or more"):
        train.run([*TINY, "--processes", "2"])
