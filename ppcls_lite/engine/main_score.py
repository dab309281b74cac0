"""What two evaluations have in common, by which they are compared.

Read next: scoring.py, checkpoint_manager.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

AVERAGED = "_ema"  # the end of the names of an averaged network's scores
NOT_FINITE = "not_finite"  # among the scores: how many images had NaN or infinity as an answer


def may_win(scores: Mapping[str, float]) -> bool:
    """Whether an evaluation may be the best: its main value and all answers behind it are finite.

    The main value is the first; the other network's answers do not matter.
    """
    main = next(iter(scores))
    suffix = AVERAGED if main.endswith(AVERAGED) else ""
    return math.isfinite(scores[main]) and f"{NOT_FINITE}{suffix}" not in scores


def main_score(scores: Mapping[str, float], main: str) -> float | None:
    """What `scores` say under the name `main` of the network that shipped; None if nothing.

    That network's scores come first, whatever `main` is called: a resume may have switched the
    average on or off, and of two networks now one ships, now the other.
    """
    name = main.removesuffix(AVERAGED)
    suffix = AVERAGED if next(iter(scores), "").endswith(AVERAGED) else ""
    return scores.get(f"{name}{suffix}", scores.get(name))
