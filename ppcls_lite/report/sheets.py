"""Sheets of small pictures with their names: images worth looking at, as PNG files.

Read before: facts.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import ImageError
from ppcls_lite.report.facts import IMAGES, read_facts
from ppcls_lite.report.pictures import write_image
from ppcls_lite.system.fonts import font_for

EDGE = 160  # pixels of a small picture
_LINE, _COLUMNS, _LETTERS = 14, 6, 24


def draw_sheets(folder: Path) -> list[Path]:
    """Draw the groups of images that images.json in `folder` names; returns the files.

    An image that cannot be read is left out.
    """
    files = []
    for group in read_facts(folder / IMAGES) or []:
        pictures = ((thumbnail(file), lines(file, caption)) for file, caption in group["images"])
        known = [(picture, text) for picture, text in pictures if picture is not None]
        if known:
            path = folder / f"{re.sub('[^a-z]+', '_', group['title'].lower())}.png"
            write_image(sheet(known), path)
            files.append(path)
    return files


def thumbnail(file: str, edge: int = EDGE) -> np.ndarray | None:
    """A copy of an image with a longer edge of `edge` pixels, (H, W, 3); None: unreadable."""
    try:
        return shrunk(DecodeImage().read(file), edge)
    except (ImageError, OSError):
        return None


def shrunk(image: np.ndarray, edge: int = EDGE) -> np.ndarray:
    """(H, W, 3) uint8 with a longer edge of `edge` pixels."""
    height, width = image.shape[:2]
    scale = edge / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=method)


def lines(file: str, caption: str) -> list[str]:
    """The name of a file, its end where it is long, and a caption in lines of its width."""
    name = Path(file).name
    text = [name if len(name) <= _LETTERS else f"...{name[3 - _LETTERS :]}", ""]
    for word in caption.split(" "):
        if text[-1] and len(text[-1]) + len(word) >= _LETTERS:
            text.append("")
        text[-1] = f"{text[-1]} {word}".strip()[:_LETTERS]
    return text


def sheet(pictures: Iterable[tuple[np.ndarray, Sequence[str]]]) -> np.ndarray:
    """Pictures (up to EDGE pixels) with lines below them, side by side: (H, W, 3) uint8."""
    shown = list(pictures)
    height = EDGE + 8 + _LINE * max(len(text) for _, text in shown)
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    canvas = Image.new("RGB", (columns * (EDGE + 8), rows * height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (picture, text) in enumerate(shown):
        left, top = number % columns * (EDGE + 8) + 4, number // columns * height + 4
        canvas.paste(Image.fromarray(picture), (left, top + EDGE - picture.shape[0]))
        for line, words in enumerate(text):
            pen.text((left, top + EDGE + 2 + line * _LINE), words, "black", font_for(words, 12))
    return np.asarray(canvas)
