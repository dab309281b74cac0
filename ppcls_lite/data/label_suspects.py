"""Which labels are likely wrong: those of images that look like another class to a judge who has
not seen them.

The judge is a linear classifier on features, fitted to all other fifths of the images, so that no
label vouches for itself, as in confident learning (Northcutt, Jiang and Chuang, arXiv 1911.00068).
Read before: patch_features.py. Read next: ../recipe/suspects.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOLDS = 5
_RIDGE = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # strengths that are tried, of the mean variance
_SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of the softmax that makes scores probabilities


@dataclass(frozen=True)
class Suspects:
    """The images in doubt, the most suspicious first.

    places: (m,) of the images. looks_like, certainty: (m,) the class and its probability.
    right: share of all images that look like what they are labelled.
    """

    places: np.ndarray
    looks_like: np.ndarray
    certainty: np.ndarray
    right: float


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """Those of the images (n,) for which another class is more probable (n, classes) than theirs.

    First those whose own label is the least probable: a wrong label is one class of many, so that
    how improbable it is says more of it than by how much another one leads. Images with the label
    -1 are passed over.
    """
    rows = np.arange(len(labels))
    given = np.where(labels >= 0, probabilities[rows, labels], np.inf)
    others = probabilities.copy()
    others[rows, labels] = -1
    best = others.argmax(axis=1)
    margin = others[rows, best] - given
    order = np.lexsort([-others[rows, best], given])
    places = order[margin[order] > 0]
    known = labels >= 0
    right = float((margin[known] <= 0).mean()) if known.any() else 0.0
    return Suspects(places, best[places], others[places, best[places]], right)


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, class_num: int, seed: int = 0
) -> np.ndarray:
    """Class probabilities (n, class_num) of images by judges that were fitted without them.

    features: (n, d). Images with the label -1 teach nothing, and get an answer all the same.
    """
    folds = _folds(labels, seed)
    spread = features.std(axis=0)
    x = (features - features.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    targets = np.eye(class_num)[labels] * (labels >= 0)[:, None]
    known = labels >= 0
    counts = np.bincount(labels[known], minlength=class_num)
    prior = counts / max(counts.sum(), 1)
    scores = np.zeros((len(_RIDGE), len(labels), class_num))
    for fold in range(FOLDS):
        taught, asked = (folds != fold) & known, folds == fold
        values, sides, seen = _turned(x[taught], targets[taught] - prior, x[asked])
        for number, strength in enumerate(_RIDGE):
            ridge = strength * values.sum() / x.shape[1] + 1e-9
            scores[number, asked] = seen @ (sides / (values + ridge)[:, None]) + prior
    return _most_fitting(scores, labels)


def _turned(
    x: np.ndarray, targets: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ridge regression in the axes in which it is one division for each strength.

    Of features or of images, whichever are fewer.
    """
    if len(x) > x.shape[1]:
        values, axes = np.linalg.eigh(x.T @ x)
        return values.clip(0), axes.T @ (x.T @ targets), asked @ axes
    values, axes = np.linalg.eigh(x @ x.T)
    return values.clip(0), axes.T @ targets, asked @ x.T @ axes


def neighbours(
    features: np.ndarray, labels: np.ndarray, class_num: int, count: int = 12
) -> np.ndarray:
    """Class probabilities (n, class_num) by the labels of the nearest other images, by angle."""
    x = features - features.mean(axis=0)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)
    votes = np.zeros((len(x), class_num))
    known = labels >= 0
    count = min(count, max(int(known.sum()) - 1, 1))
    for start in range(0, len(x), 1024):
        alike = x[start : start + 1024] @ x.T
        alike[:, ~known] = -2
        own = np.arange(len(alike))
        alike[own, start + own] = -2
        near = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        weights = np.exp(4 * np.take_along_axis(alike, near, axis=1))
        np.add.at(votes[start : start + 1024], (own[:, None], labels[near]), weights)
    return votes / votes.sum(axis=1, keepdims=True)


def _folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """A fifth (n,) for each image, alike in every class."""
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        folds[places] = (np.arange(len(places)) + rng.integers(FOLDS)) % FOLDS
    return folds


def _most_fitting(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities of the scores (ways, n, classes) and sharpness that fit the labels best."""
    known = np.flatnonzero(labels >= 0)
    best, found = np.inf, None
    for own in scores:
        for sharpness in _SHARPNESS:
            logits = sharpness * (own - own.max(axis=1, keepdims=True))
            p = np.exp(logits)
            p /= p.sum(axis=1, keepdims=True)
            loss = -np.log(p[known, labels[known]].clip(1e-12)).mean()
            if loss < best:
                best, found = loss, p
    return found
