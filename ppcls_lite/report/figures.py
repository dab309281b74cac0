"""How a figure of matplotlib becomes a file.

matplotlib is imported by whoever makes a figure, so that no start of a run waits for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_lite.system.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all, without a display.

    `savefig` would draw a figure with a layout twice, once to find the layout.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(100)
    with atomic_file(path) as file:
        FigureCanvasAgg(figure).print_png(file)
