"""Which samples are for validation. Read next: folders.py, scenes.py."""

from __future__ import annotations

import numpy as np


def stratified_split(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which samples are for validation: `share` of every class, (n,) bool.

    A class with two or more images has at least one on each side; the choice depends on `seed`.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        count = round(len(places) * share)
        if share > 0 and len(places) > 1:
            count = min(max(count, 1), len(places) - 1)
        chosen[places[: count if len(places) > 1 else 0]] = True
    return chosen
