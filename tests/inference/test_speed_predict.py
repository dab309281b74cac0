"""The measurement of overlapping runs and says what it found; its figures mean nothing here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.speed import predict
from ppcls_lite.errors import UserError


def test_the_contenders_run(
    exported: Any, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(exported.folder), "--images", "8", "--rounds", "1"]
    status = predict.run(
        [*arguments, "--batch-size", "4", "--data", str(pictures), "--soak", "20", "--command"]
    )
    shown = capsys.readouterr().out
    rates = [float(line.split()[1]) for line in shown.splitlines() if "ms of processor" in line]
    assert len(rates) == 4 and min(rates) > 0
    assert status == ("aim 95%: missed" in shown)
    assert [int(line.split()[0]) for line in shown.splitlines()[-10:]] == list(range(2, 21, 2))


def test_no_images(exported: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data .*: no images"):
        predict.run(["--model", str(exported.folder), "--data", str(tmp_path)])
