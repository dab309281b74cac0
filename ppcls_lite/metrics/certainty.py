"""What an export may ask of an evaluation: how certain an answer has to be.

Read next: answers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ppcls_lite.errors import UserError


@dataclass(frozen=True)
class Wish:
    """`calibrate`: scores are to mean what they say. `reject`: for which share of right answers
    among those that are given (precision), or of images with an answer (coverage), the others are
    left out.
    """

    calibrate: bool = False
    reject: tuple[Literal["precision", "coverage"], float] | None = None

    def __bool__(self) -> bool:
        return self.calibrate or self.reject is not None


class Certainty(NamedTuple):
    """Arguments of the post-processing, and what they cost on the evaluation's images."""

    arguments: dict[str, Any]
    facts: dict[str, Any]


def unreachable(precision: float, best: float, images: int) -> UserError:
    """No threshold is precise enough."""
    return UserError(
        f"no threshold reaches a precision of {precision:g} on the {images:,} images of "
        f"DataLoader.Eval; the best that one reaches is {best:.4f}. Ask for less, or train on"
    )
