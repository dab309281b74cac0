"""What a search tries: keys of a recipe with values or a range, `KEY=0.1,0.3,1` or `KEY=1e-3..1`.

Read next: tune.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ppcls_lite.errors import UserError

Values = dict[str, str]  # key -> value, as -o takes them
MOST = 1000


def candidates(tries: Sequence[str], trials: int | None, seed: int) -> list[Values]:
    """The settings to compare.

    All combinations of lists. Where there is a range, `trials` (9) random ones: a range is drawn
    evenly on a logarithmic scale, a list by chance; `seed` decides. `trials` also thins out lists.
    Raises UserError for what is no `KEY=values`.
    """
    space = [_parsed(text) for text in tries]
    keys = [key for key, _ in space]
    if len({*keys}) < len(keys):
        raise UserError(f"--try: a key is there twice: {', '.join(keys)}")
    rng = np.random.default_rng(seed)
    if all(isinstance(values, list) for _, values in space):
        count = math.prod(len(values) for _, values in space)
        if count > MOST:
            raise UserError(f"--try: {count:,} combinations; expected at most {MOST:,}")
        every = [dict(zip(keys, c)) for c in itertools.product(*(values for _, values in space))]
        if trials is None or trials >= count:
            return every
        return [every[i] for i in sorted(rng.choice(count, trials, replace=False))]
    return [{key: _drawn(values, rng) for key, values in space} for _ in range(trials or 9)]


def _parsed(text: str) -> tuple[str, list[str] | tuple[float, float]]:
    key, equals, rest = text.partition("=")
    low, dots, high = rest.partition("..")
    if dots:
        try:
            ends = float(low), float(high)
        except ValueError:
            ends = (0.0, 0.0)
        if not (key and 0 < ends[0] < ends[1] < math.inf):
            raise UserError(f"--try {text}: expected KEY=LOW..HIGH with 0 < LOW < HIGH")
        return key, ends
    values = [value.strip() for value in rest.split(",")]
    if not (key and equals) or not all(values) or len({*values}) < len(values):
        raise UserError(
            f"--try {text}: expected KEY=VALUE,VALUE,... with different values, or KEY=LOW..HIGH, "
            "e.g. Optimizer.lr.learning_rate=0.1,0.3,1"
        )
    return key, values


def _drawn(values: list[str] | tuple[float, float], rng: np.random.Generator) -> str:
    if isinstance(values, list):
        return str(rng.choice(values))
    low, high = map(math.log, values)
    return f"{math.exp(rng.uniform(low, high)):.3g}"
