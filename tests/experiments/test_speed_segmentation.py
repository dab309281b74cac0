"""The benchmark of segmentation, on a small network and image."""

from __future__ import annotations

import re

import pytest

from experiments.speed import segmentation


def test_it_compares_the_kernels_with_paddle(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(segmentation.kernels, "prepare", lambda *given: asked.append(given[1:]))
    small = ["--arch", "deeplabv3p_PPLCNet_x0_25", "--batch-size", "2", "--size", "64", "32"]
    small += ["--rounds", "1"]
    assert segmentation.run(small) == 0
    assert asked == [("off", "cpu"), ("on", "cpu")]
    printed = capsys.readouterr().out
    assert "batches of 2 images of 64x32" in printed
    assert len(re.findall(r"s an update", printed)) == 2
    assert re.search(r"kernels: \d+\.\d\dx by the clock, \d+\.\d\dx by processor", printed)
    assert segmentation.run([*small, "--at-least", "1000"]) == 1
