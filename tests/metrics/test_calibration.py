"""Calibration of scores whose true probabilities are known, and thresholds by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_lite.metrics import calibration


def drawn(count: int, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that were drawn with their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, classes))
    p = np.exp(calibration.log_softmax(logits))
    labels = (p.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_logits_were_multiplied_by(scale: float) -> None:
    logits, labels = drawn(20_000)
    assert calibration.fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.04)


def test_no_other_temperature_has_a_smaller_loss() -> None:
    logits, labels = drawn(3_000)
    best = calibration.fit_temperature(2 * logits, labels)
    assert best is not None
    losses = [calibration.losses(2 * logits, labels, best * f).mean() for f in (1, 0.97, 1.03)]
    assert losses[0] == min(losses)


def test_true_probabilities_have_no_error_and_too_sure_ones_have() -> None:
    logits, labels = drawn(40_000)

    def error(temperature: float) -> float:
        answer, confidence = calibration.best_of(logits, temperature)
        return calibration.calibration_error(calibration.reliability(confidence, answer == labels))

    assert error(1.0) < 0.01
    # with every logit tripled, the confidence is known: so is its distance from the truth
    _, sure = calibration.best_of(logits, 1 / 3)
    _, true = calibration.best_of(logits)
    assert error(1 / 3) == pytest.approx(float((sure - true).mean()), abs=0.01)


def test_bins_by_hand() -> None:
    confidence = np.array([0.05, 0.95, 0.97, 1.0])
    bins = calibration.reliability(confidence, np.array([False, True, False, True]), bins=10)
    assert [(b.low, b.high, b.count) for b in bins] == [(0.0, 0.1, 1), (0.9, 1.0, 3)]
    assert bins[1].accuracy == pytest.approx(2 / 3)
    assert calibration.calibration_error(bins) == pytest.approx(
        (0.05 + 3 * abs(2.92 / 3 - 2 / 3)) / 4
    )


def test_images_without_a_mistake_fit_no_temperature() -> None:
    logits = np.array([[3.0, 0], [0, 2]], np.float32)
    assert calibration.fit_temperature(logits, np.array([0, 1])) is None
    assert calibration.fit_temperature(logits, np.array([0, 0])) is not None


def test_cuts_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.5])
    cuts = calibration.cuts(confidence, np.array([True, True, False, True, False]))
    found = [(round(c.threshold, 4), round(c.precision, 4), c.coverage) for c in cuts]
    assert found == [(0.85, 1.0, 0.2), (0.7, 0.6667, 0.6), (0.55, 0.75, 0.8), (0.25, 0.6, 1.0)]
    by_precision = calibration.cut_for_precision(cuts, 0.7)
    assert by_precision is not None and by_precision.coverage == 0.8  # most answers, not fewest
    assert calibration.cut_for_precision(cuts, 1.0).coverage == 0.2
    assert (
        calibration.cut_for_precision(calibration.cuts(confidence, np.zeros(5, bool)), 0.1) is None
    )
    assert calibration.cut_for_coverage(cuts, 0.5).coverage == 0.6


def test_a_chosen_precision_holds_on_other_images() -> None:
    known, fresh = drawn(20_000), drawn(20_000, seed=1)
    (answer, confidence), labels = calibration.best_of(known[0]), known[1]
    cut = calibration.cut_for_precision(calibration.cuts(confidence, answer == labels), 0.9)
    assert cut is not None
    answer, confidence = calibration.best_of(fresh[0])
    kept = confidence >= cut.threshold
    assert (answer == fresh[1])[kept].mean() == pytest.approx(0.9, abs=0.015)
    assert kept.mean() == pytest.approx(cut.coverage, abs=0.02)
