"""Pictures of a run: the first batch, the curves.

Curves are drawn with matplotlib, without a display; it is imported by the first of them, after an
epoch, so that no start of a run waits for it. Read before: engine/writer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_lite.report.figures import write_figure

Draw = Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
COLOURS = {"train": "tab:blue", "eval": "tab:orange"}
GRID_IMAGES = 64
WIDE, HIGH = 5.0, 3.2  # inches: a panel of the curves, and its margins
LEFT, RIGHT, BELOW, ABOVE = 0.75, 0.15, 0.55, 0.35


class RunPictures:
    """The pictures in a run's folder: first_batch.png, curves.png.

    `mean` and `std` (per channel, for values in 0..1) undo the normalisation of the batch. `draw`
    puts on an image (H, W, 3) uint8 what the batch knows about it, from its arrays by name.
    """

    def __init__(
        self,
        run_dir: Path,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        draw: Draw = lambda image, known: image,
    ) -> None:
        self.run_dir = run_dir
        self.mean, self.std = mean, std
        self.draw = draw

    def first_batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Draw `batch["image"]` (N, C, H, W) as it enters the network, with what is known about
        it; returns the grid (H, W, 3)."""
        grid = image_grid(batch["image"], self.mean, self.std, draw=self._known(batch))
        write_image(grid, self.run_dir / "first_batch.png")
        return grid

    def _known(self, batch: Mapping[str, np.ndarray]) -> Callable[[np.ndarray, int], np.ndarray]:
        def draw(image: np.ndarray, number: int) -> np.ndarray:
            return self.draw(image, {name: array[number] for name, array in batch.items()})

        return draw

    def drawn_batch(self) -> np.ndarray | None:
        """The grid (H, W, 3) that `first_batch` has drawn into this folder, if it is there."""
        path = self.run_dir / "first_batch.png"
        return read_image(path) if path.exists() else None

    def finish(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the epochs of `history`, if there are any."""
        if history:
            curves(history, self.run_dir / "curves.png")


def image_grid(
    images: np.ndarray,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    draw: Callable[[np.ndarray, int], np.ndarray] = lambda image, number: image,
) -> np.ndarray:
    """The first `limit` of `images` (N, C, H, W) side by side, as RGB uint8 (rows, columns, 3).

    By default as many as fit on about 1000 x 1000 pixels, at least 4 and at most GRID_IMAGES.
    With `mean` and `std` (per channel, for values in 0..1) the normalisation is undone exactly;
    otherwise the batch is stretched to its own range. `draw` is given each image and its number.
    """
    if limit is None:
        limit = int(np.clip((1000 // max(images.shape[2:])) ** 2, 4, GRID_IMAGES))
    images = np.asarray(images[:limit], np.float32).transpose(0, 2, 3, 1)  # (N, H, W, C)
    if mean is not None and std is not None:
        images = images * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    else:
        low, high = float(images.min()), float(images.max())
        images = (images - low) / max(high - low, 1e-12)
    pixels = np.rint(images.clip(0, 1) * 255).astype(np.uint8)
    count, height, width, channels = pixels.shape
    if channels != 3:  # one channel, or an unusual number: the first as grey
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)  # (N, H, W, 3)
    pixels = np.stack([draw(image, number) for number, image in enumerate(pixels)])
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows, columns, height + 2, width + 2, 3), 255, np.uint8)  # a white frame
    grid.reshape(-1, height + 2, width + 2, 3)[:count, 1:-1, 1:-1] = pixels
    return grid.swapaxes(1, 2).reshape(rows * (height + 2), columns * (width + 2), 3)


def write_image(picture: np.ndarray, path: Path) -> None:
    """Write `picture` (H, W, 3) uint8 as a PNG."""
    Image.fromarray(picture).save(path, "png")


def read_image(path: Path) -> np.ndarray:
    """Read a PNG written by `write_image` as (H, W, 3) uint8."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))  # (H, W, 3)


def curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every value over the epochs, training and evaluation in one panel, and the learning rate.

    `history` has one entry per epoch: `epoch`, `lr`, `train` {name: value}, `eval` {...} or None.
    Losses that span more than a factor of 20 get a logarithmic axis; of equal panels one is drawn
    (a single loss term and its sum).
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for entry in history:
        values = {"train": {**entry["train"], "learning rate": entry["lr"]}, "eval": entry["eval"]}
        for split, found in values.items():
            for name, value in (found or {}).items():
                panels.setdefault(name, {}).setdefault(split, []).append((entry["epoch"], value))
    names = [n for i, n in enumerate(panels) if panels[n] not in list(panels.values())[:i]]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDE * columns, HIGH * rows))
    figure.subplots_adjust(  # as shares of the figure, of an axis the last two
        left=LEFT / (WIDE * columns),
        right=1 - RIGHT / (WIDE * columns),
        bottom=BELOW / (HIGH * rows),
        top=1 - ABOVE / (HIGH * rows),
        wspace=(LEFT + RIGHT) / (WIDE - LEFT - RIGHT),
        hspace=(ABOVE + BELOW) / (HIGH - ABOVE - BELOW),
    )
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for split, points in panels[name].items():
            style = {"color": COLOURS[split], "marker": "o" if len(points) < 30 else None}
            axes.plot(*zip(*points), label=split, markersize=3, **style)
        heights = [value for points in panels[name].values() for _, value in points]
        if "loss" in name.lower() and 0 < 20 * min(heights) < max(heights):
            axes.set_yscale("log")
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    write_figure(figure, path)
