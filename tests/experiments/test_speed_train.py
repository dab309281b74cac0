from __future__ import annotations

import logging

import pytest

from experiments.speed import train

TINY = [*("--batch-size", "2", "--image-size", "32"), *("--steps", "2", "--rounds", "1")]


def test_benchmark_compares_both_loops(capsys):
    assert train.run([*TINY, "--device", "cpu"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("PPLCNet_x0_25 on cpu: 1 rounds of 2 steps of 2 images of 32x32")
    assert shown[1].startswith("bare ") and "images/s" in shown[1]
    assert shown[2].startswith("toolkit ")
    assert shown[3].startswith("toolkit / bare: ") and "% by the clock" in shown[3]
    assert "peak_rss_mb" in shown[4]


def test_benchmark_fails_below_a_ratio():
    assert train.run([*TINY, "--at-least", "100"]) == 1


@pytest.fixture(autouse=True)
def quiet():
    yield
    logger = logging.getLogger("ppcls_lite")
    for handler in [h for h in logger.handlers if getattr(h, "is_ours", False)]:
        logger.removeHandler(handler)
    logger.propagate = True
