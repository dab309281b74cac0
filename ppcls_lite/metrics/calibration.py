"""Do probabilities mean what they say? Reliability, temperature, and when not to answer.

Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599: the expected calibration
error over bins of equal width, and one temperature that divides all logits, fitted by the negative
log-likelihood of validation images. Pure functions of arrays. Read next: answers.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15
_COOLEST, _WARMEST = 0.05, 20.0  # temperatures that are looked at
_ROWS = 4096  # of logits at a time
_STEPS = 60


class Bin(NamedTuple):
    """Answers of similar confidence: their number, mean confidence and share of right ones."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


class Cut(NamedTuple):
    """What answers from a confidence of `threshold` on are worth."""

    threshold: float
    precision: float  # the share of right ones among them
    coverage: float  # their share of all images
    answered: int


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Logits (N, C) to logarithms of probabilities, float64."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def best_of(logits: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The best class and its probability, (N,) each, of logits (N, C)."""
    classes, confidence = np.zeros(len(logits), np.int64), np.zeros(len(logits))
    for at in range(0, len(logits), _ROWS):
        logs = log_softmax(logits[at : at + _ROWS], temperature)
        classes[at : at + _ROWS] = logs.argmax(axis=1)
        confidence[at : at + _ROWS] = np.exp(logs.max(axis=1))
    return classes, confidence


def losses(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The negative log-likelihood (N,) of class ids `labels` (N,) >= 0."""
    found = np.zeros(len(logits))
    for at in range(0, len(logits), _ROWS):
        logs = log_softmax(logits[at : at + _ROWS], temperature)
        found[at : at + _ROWS] = -logs[np.arange(len(logs)), labels[at : at + _ROWS]]
    return found


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature that makes `labels` (N,) most likely under logits (N, C).

    None where no answer is wrong, or there are none: then every temperature that is low enough is
    as good, and the images say nothing. The likelihood is convex in 1 / temperature, whose slope
    is therefore bisected, on a logarithmic scale.
    """
    if not len(logits) or (logits.argmax(axis=1) == labels).all():
        return None
    low, high = np.log(1 / _WARMEST), np.log(1 / _COOLEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _slope(logits, labels, float(np.exp(middle))) > 0:
            high = middle
        else:
            low = middle
        if high - low < 1e-5:
            break
    return float(np.exp(-(low + high) / 2))


def _slope(logits: np.ndarray, labels: np.ndarray, factor: float) -> float:
    """The derivative of the summed loss by the factor of the logits."""
    total = 0.0
    for at in range(0, len(logits), _ROWS):
        part = logits[at : at + _ROWS].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        p = np.exp(part * factor)
        p /= p.sum(axis=1, keepdims=True)
        total += float((p * part).sum() - part[np.arange(len(part)), labels[at : at + _ROWS]].sum())
    return total


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Answers (N,) in bins of equal width of their confidence; empty bins are left out."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for number in np.unique(place):
        inside = place == number
        mean, share = float(confidence[inside].mean()), float(right[inside].mean())
        found.append(Bin(number / bins, (number + 1) / bins, int(inside.sum()), mean, share))
    return found


def calibration_error(bins: list[Bin]) -> float:
    """The mean distance of confidence and accuracy, each bin by its number of answers."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / max(total, 1)


def cuts(confidence: np.ndarray, right: np.ndarray) -> list[Cut]:
    """Every threshold that tells some of the answers (N,) from others, the highest first.

    A threshold lies in the middle between two confidences, so that rounding moves no answer over.
    """
    if not len(right):
        return []
    order = np.argsort(-confidence, kind="stable")
    sorted_, hits = confidence[order], right[order].cumsum()
    ends = np.append(np.flatnonzero(np.diff(sorted_)), len(sorted_) - 1)  # last of equal ones
    below = np.append(sorted_[1:], 0.0)[ends]
    precision, coverage = hits[ends] / (ends + 1), (ends + 1) / max(len(right), 1)
    columns = ((sorted_[ends] + below) / 2, precision, coverage, ends + 1)
    return [Cut(*row) for row in zip(*(column.tolist() for column in columns))]


def cut_for_precision(all_cuts: list[Cut], precision: float) -> Cut | None:
    """The cut that answers most among those of at least this precision; None: there is none."""
    return next((cut for cut in reversed(all_cuts) if cut.precision >= precision), None)


def cut_for_coverage(all_cuts: list[Cut], coverage: float) -> Cut:
    """The strictest cut that answers at least this share of the images."""
    return next((cut for cut in all_cuts if cut.coverage >= coverage), all_cuts[-1])


def chosen_cut(all_cuts: list[Cut], name: str, share: float) -> Cut | None:
    """The cut for a share of the "precision" or of the "coverage"; None: none is precise enough."""
    if not all_cuts:
        return None
    by = cut_for_precision if name == "precision" else cut_for_coverage
    return by(all_cuts, share)
