"""bf16 products against float32 ones in a training step, on a small network and image."""

from __future__ import annotations

import re
from typing import Any

import pytest

from experiments.speed import dtypes, train


def test_kinds_of_products_are_compared_in_turns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def prepare(model: Any, mode: str, device: str, dtype: str) -> None:
        asked.append((mode, dtype))

    monkeypatch.setattr(train.kernels, "prepare", prepare)
    small = ["--batch-size", "2", "--image-size", "32", "--steps", "1", "--rounds", "1"]
    assert dtypes.run(["--arch", "PPLCNet_x0_25", *small, "--stock"]) == 0
    assert asked == [("on", "fp32"), ("on", "bf16"), ("off", "fp32")]
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("PPLCNet_x0_25, 32x32, batches of 2, ")
    assert [row.split()[0] for row in rows] == ["fp32", "bf16", "paddle"]
    assert all(re.search(r"\d+\.\d\d ms of processor per image +\d+\.\d\dx", row) for row in rows)
    assert " 1.00x (1.00 to 1.00), by the clock 1.00x" in rows[1]
