"""Which values are drawn together, over the epochs: for curves.png and the page.

Read next: pictures.py, summary.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ppcls_lite.engine.main_score import AVERAGED

LEARNING_RATE = "learning rate"
AVERAGE = "averaged weights"  # the line of an averaged network's scores


class Panel(NamedTuple):
    """A value's name and its lines: `train`, `eval`, AVERAGE -> [(epoch, value)]."""

    name: str
    lines: dict[str, list[tuple[int, float]]]

    @property
    def is_loss(self) -> bool:
        return "loss" in self.name.lower()


def panels_of(values: Iterable[tuple[str, str, int, float]], main: str = "") -> list[Panel]:
    """Panels of values, each of which is a split, a name, an epoch, and the value.

    Of equal panels one is left (a single loss term and its sum). The scores of an averaged network
    are a line of the network's own ones. First comes `main`, then losses, then the learning rate.
    """
    found: dict[str, Panel] = {}
    for split, name, epoch, value in values:
        own = name.removesuffix(AVERAGED)
        line = split if own == name else AVERAGE
        found.setdefault(own, Panel(own, {})).lines.setdefault(line, []).append((epoch, value))
    panels = list(found.values())
    lines = [panel.lines for panel in panels]
    shown = [panel for i, panel in enumerate(panels) if panel.lines not in lines[:i]]
    first = main.removesuffix(AVERAGED)

    def place(panel: Panel) -> int:
        return [panel.name == first, panel.is_loss, panel.name == LEARNING_RATE, True].index(True)

    return sorted(shown, key=place)
