"""Intervals against published values and against what drawing many samples gives."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_lite.ops.intervals import bootstrap, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_intervals(right: int, total: int, low: float, high: float) -> None:
    found = wilson(right, total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert f"{total} images" in found.method


def test_everything_right_is_no_certainty() -> None:
    found = wilson(61, 61)
    assert found.high == pytest.approx(1) and found.low == pytest.approx(0.9408, abs=1e-4)


def test_the_bootstrap_of_a_share_is_near_wilsons_interval() -> None:
    right = np.arange(200) < 150
    found = bootstrap(lambda weights: float(weights @ right / weights.sum()), 200)
    assert found is not None and (found.low, found.high) == pytest.approx(
        wilson(150, 200)[:2], abs=0.01
    )


def test_a_mean_of_normal_values_has_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap(lambda weights: float(weights @ values / weights.sum()), 400)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.12)


def test_one_image_says_nothing() -> None:
    assert bootstrap(lambda weights: 1.0, 1) is None
    assert bootstrap(lambda weights: float("nan"), 10) is None
