"""Features of images that need no network and no labels: how like typical patches their parts are.

Patches of small pictures, whitened, are compared with the centres of their clusters, and the
likenesses are pooled over quarters of the picture (Coates, Lee and Ng, "An Analysis of Single-Layer
Networks in Unsupervised Feature Learning", 2011, with soft k-means). They know no labels, so that
wrong ones leave no trace in them. Read next: label_suspects.py.
"""

from __future__ import annotations

import cv2
import numpy as np

EDGE, PATCH, CENTRES = 32, 6, 400  # pixels of a picture and of a patch; clusters
_FITTED = 20_000, 100  # patches that the clusters are found in: at most, and of each picture
_ROUNDS = 10
_CONTRAST, _WHITE = 10.0, 0.1  # added to variances, so that noise is not enlarged
_BATCH = 64


def small_picture(image: np.ndarray) -> np.ndarray:
    """An (H, W, 3) uint8 image as (32, 32, 3)."""
    how = cv2.INTER_AREA if min(image.shape[:2]) > EDGE else cv2.INTER_LINEAR
    return cv2.resize(image, (EDGE, EDGE), interpolation=how)


def patch_features(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """Features (n, 1600) float32 of `small_picture`s (n, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    some = _evened(_sampled(pictures, rng))
    mean = some.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(some - mean, rowvar=False))
    white = (axes / np.sqrt(values.clip(0) + _WHITE)) @ axes.T
    white = white.astype(np.float32)
    centres = _clusters((some - mean) @ white, rng)
    return np.concatenate(
        [
            _likenesses(pictures[i : i + _BATCH], mean, white, centres)
            for i in range(0, len(pictures), _BATCH)
        ]
    )


def _patches(pictures: np.ndarray) -> np.ndarray:
    """All patches of pictures (n, 32, 32, 3): (n, 27, 27, 108) float32."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (PATCH, PATCH), axis=(1, 2))
    return windows.reshape(*windows.shape[:3], -1).astype(np.float32)


def _sampled(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches of pictures and places by chance."""
    room, count = EDGE - PATCH + 1, min(_FITTED[0], _FITTED[1] * len(pictures))
    which = rng.integers(0, len(pictures), count)
    tops, lefts = rng.integers(0, room, (2, count))
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (PATCH, PATCH), axis=(1, 2))
    return windows[which, tops, lefts].reshape(count, -1).astype(np.float32)


def _evened(patches: np.ndarray) -> np.ndarray:
    """Patches of one brightness and contrast."""
    patches = patches - patches.mean(axis=-1, keepdims=True)
    return patches / np.sqrt(patches.var(axis=-1, keepdims=True) + _CONTRAST)


def _clusters(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """k-means: (CENTRES, 108)."""
    centres = patches[rng.choice(len(patches), CENTRES, replace=len(patches) < CENTRES)]
    for _ in range(_ROUNDS):
        nearest = _squares(patches, centres).argmin(axis=1)
        counts = np.bincount(nearest, minlength=CENTRES)
        found = counts > 0
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(patches[np.argsort(nearest, kind="stable")], starts[found])
        centres[found] = sums / counts[found, None]
        centres[~found] = patches[rng.choice(len(patches), int((~found).sum()))]
    return centres


def _squares(patches: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (n, centres)."""
    lengths = (patches**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return lengths - 2 * patches @ centres.T


def _likenesses(
    pictures: np.ndarray, mean: np.ndarray, white: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """By how much each patch is nearer to a centre than to the mean of them, over quarters."""
    patches = (_evened(_patches(pictures)) - mean) @ white  # (n, 27, 27, 108)
    count, side = len(patches), patches.shape[1]
    distances = np.sqrt(_squares(patches.reshape(-1, patches.shape[-1]), centres).clip(0))
    nearer = np.maximum(distances.mean(axis=1, keepdims=True) - distances, 0)
    nearer = nearer.reshape(count, side, side, CENTRES)
    half = side // 2
    parts = [
        nearer[:, rows, columns].sum(axis=(1, 2))
        for rows in (slice(half), slice(half, None))
        for columns in (slice(half), slice(half, None))
    ]
    return np.sqrt(np.concatenate(parts, axis=1)).astype(np.float32)
