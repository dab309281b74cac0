"""What two evaluations have in common, by which they are compared.

Read next: scoring.py, checkpoint_manager.py.
"""

from __future__ import annotations

from collections.abc import Mapping

AVERAGED = "_ema"  # the end of the names of an averaged network's scores


def main_score(scores: Mapping[str, float], main: str) -> float | None:
    """What `scores` say under the name `main` of the network that shipped; None if nothing.

    That network is the averaged one where there is one, whatever `main` is called: a resume may
    have switched the average on or off.
    """
    name = main.removesuffix(AVERAGED)
    return scores.get(f"{name}{AVERAGED}", scores.get(name))
