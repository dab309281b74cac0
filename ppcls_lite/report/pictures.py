"""Pictures of a run: the first batch, the curves.

Curves are drawn with matplotlib, without a display; it is imported by the first of them, after an
epoch, so that no start of a run waits for it. Read before: engine/writer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ppcls_lite.report.figures import write_figure
from ppcls_lite.report.panels import AVERAGE, LEARNING_RATE, panels_of
from ppcls_lite.system.files import atomic_file
from ppcls_lite.system.fonts import fitting, font_for

Draw = Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
Caption = Callable[[Mapping[str, np.ndarray]], str]
COLOURS = {"train": "tab:blue", "eval": "tab:orange", AVERAGE: "tab:green"}
GRID_IMAGES = 64
CAPTIONED, LINE, LETTERS = 96, 16, 12  # pixels: the least edge of an image, a line and its text
WIDE, HIGH = 5.0, 3.2  # inches: a panel of the curves, and its margins
LEFT, RIGHT, BELOW, ABOVE = 0.75, 0.15, 0.55, 0.35


class RunPictures:
    """The pictures in a run's folder: first_batch.png, curves.png.

    `mean` and `std` (per channel, for values in 0..1) undo the normalisation of the batch. `draw`
    puts on an image (H, W, 3) uint8 what the batch knows about it, from its arrays by name;
    `caption` says from them what is written below it.
    """

    def __init__(
        self,
        run_dir: Path,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        draw: Draw = lambda image, known: image,
        caption: Caption = lambda known: "",
    ) -> None:
        self.run_dir = run_dir
        self.mean, self.std = mean, std
        self.draw, self.caption = draw, caption

    def first_batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Draw `batch["image"]` (N, C, H, W) as it enters the network, with what is known about
        it; returns the grid (H, W, 3)."""
        known = [
            {name: array[number] for name, array in batch.items()}
            for number in range(len(batch["image"]))
        ]
        grid = image_grid(
            batch["image"],
            self.mean,
            self.std,
            draw=lambda image, number: self.draw(image, known[number]),
            captions=[self.caption(one) for one in known],
        )
        write_image(grid, self.run_dir / "first_batch.png")
        return grid

    def drawn_batch(self) -> np.ndarray | None:
        """The grid (H, W, 3) that `first_batch` has drawn into this folder, if it is there."""
        return read_image(self.run_dir / "first_batch.png")

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
    captions: Sequence[str] = (),
) -> np.ndarray:
    """The first `limit` of `images` (N, C, H, W) side by side, as RGB uint8 (rows, columns, 3).

    By default as many as fit on about 1000 x 1000 pixels, at least 4 and at most GRID_IMAGES.
    With `mean` and `std` (per channel, for values in 0..1) the normalisation is undone exactly;
    otherwise the batch is stretched to its own range. `draw` is given each image and its number.
    Where there are captions, one for each image, small images are enlarged by a whole factor.
    """
    has_text = any(captions)
    scale = max(1, CAPTIONED // max(images.shape[2:])) if has_text else 1
    if limit is None:
        limit = int(np.clip((1000 // (scale * max(images.shape[2:]))) ** 2, 4, GRID_IMAGES))
    images = np.asarray(images[:limit], np.float32).transpose(0, 2, 3, 1)  # (N, H, W, C)
    if mean is not None and std is not None:
        images = images * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    else:
        low, high = float(images.min()), float(images.max())
        images = (images - low) / max(high - low, 1e-12)
    pixels = np.rint(images.clip(0, 1) * 255).astype(np.uint8)
    if pixels.shape[3] != 3:  # one channel, or an unusual number: the first as grey
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)  # (N, H, W, 3)
    cells = [
        draw(image.repeat(scale, axis=0).repeat(scale, axis=1), number)
        for number, image in enumerate(pixels)
    ]
    if has_text:
        cells = [captioned(cell, text) for cell, text in zip(cells, captions)]
    count, (height, width) = len(cells), cells[0].shape[:2]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows, columns, height + 2, width + 2, 3), 255, np.uint8)  # a white frame
    grid.reshape(-1, height + 2, width + 2, 3)[:count, 1:-1, 1:-1] = np.stack(cells)
    return grid.swapaxes(1, 2).reshape(rows * (height + 2), columns * (width + 2), 3)


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """`picture` (H, W, 3) uint8 with a line of text below it."""
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + LINE), "white")
    canvas.paste(Image.fromarray(picture))
    shown = fitting(text, width, LETTERS)
    ImageDraw.Draw(canvas).text((1, height), shown, "black", font_for(shown, LETTERS))
    return np.asarray(canvas)


def write_image(picture: np.ndarray, path: Path) -> None:
    """Write `picture` (H, W, 3) uint8 as a PNG, whole or not at all."""
    with atomic_file(path) as file:
        Image.fromarray(picture).save(file, "png")


def read_image(path: Path) -> np.ndarray | None:
    """Read a PNG written by `write_image` as (H, W, 3) uint8; None: there is none, or a part."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))  # (H, W, 3)
    except OSError:
        return None


def curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every value over the epochs, training and evaluation in one panel, and the learning rate.

    `history` has one entry per epoch: `epoch`, `lr`, `train` {name: value}, `eval` {...} or None,
    the main score first. Losses that span more than a factor of 20 get a logarithmic axis.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    main = next((next(iter(entry["eval"]), "") for entry in history if entry["eval"]), "")
    panels = panels_of(_values(history), main)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDE * columns, HIGH * rows))
    figure.subplots_adjust(  # as shares of the figure, of an axis the last two
        left=LEFT / (WIDE * columns),
        right=1 - RIGHT / (WIDE * columns),
        bottom=BELOW / (HIGH * rows),
        top=1 - ABOVE / (HIGH * rows),
        wspace=(LEFT + RIGHT) / (WIDE - LEFT - RIGHT),
        hspace=(ABOVE + BELOW) / (HIGH - ABOVE - BELOW),
    )
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for split, points in panel.lines.items():
            style = {"color": COLOURS[split], "marker": "o" if len(points) < 30 else None}
            axes.plot(*zip(*points), label=split, markersize=3, **style)
        heights = [value for points in panel.lines.values() for _, value in points]
        if panel.is_loss and 0 < 20 * min(heights) < max(heights):
            axes.set_yscale("log")
        axes.set_title(panel.name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    write_figure(figure, path)


def _values(history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, float]]:
    for entry in history:
        values = {"train": {**entry["train"], LEARNING_RATE: entry["lr"]}, "eval": entry["eval"]}
        for split, found in values.items():
            for name, value in (found or {}).items():
                yield split, name, entry["epoch"], value
