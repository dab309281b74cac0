"""How sure a score is: intervals that hold the true value in 95 of 100 cases.

A share of independent images has Wilson's score interval (Wilson, J. Am. Stat. Assoc. 22, 1927),
which is right for few images and near 0 and 1; any other score is drawn again and again from the
same images with replacement (Efron, Ann. Stat. 7, 1979: the percentiles of the bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
_Z = 1.959963984540054  # of the normal distribution, for LEVEL
_DRAWS = 1000


class Interval(NamedTuple):
    """Where the true value lies, and how that was found."""

    low: float
    high: float
    method: str

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f} ({self.method})"


def wilson(right: int, total: int) -> Interval:
    """Of a share `right` / `total`, total > 0."""
    share, z2 = right / total, _Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    low, high = max(0.0, middle - float(half)), min(1.0, middle + float(half))
    return Interval(low, high, f"Wilson, {total:,} images")


def bootstrap(
    score: Callable[[np.ndarray], float], images: int, draws: int = _DRAWS, seed: int = 0
) -> Interval | None:
    """Of `score(weights)`, where weights (images,) say how often each image counts.

    None where fewer than two images, or a draw without anything to score, leave nothing to say.
    """
    if images < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, images, images) for _ in range(draws))
    values = np.array([score(np.bincount(d, minlength=images)) for d in drawn])
    values = values[np.isfinite(values)]
    if len(values) < draws / 2:
        return None
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(float(low), float(high), f"bootstrap, {images:,} images")
