"""A map of classes as text that JSON holds: run lengths, or a PNG where those would be longer.

Row by row, each run is a class and how many pixels have it: [class, count, class, count, ...]. Of
a map that is nearly noise a PNG's bytes in base64 stand instead, so that no map takes much more
room than its pixels.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

MAX_RUNS = 100_000  # a larger number takes a PNG


def encode_map(classes: np.ndarray) -> dict[str, Any]:
    """(H, W) uint8 -> `size` [H, W] and `runs` or `png`."""
    flat, size = classes.reshape(-1), list(classes.shape)
    changes = flat[1:] != flat[:-1]
    if np.count_nonzero(changes) >= MAX_RUNS:
        return {"size": size, "png": base64.b64encode(_png(classes)).decode("ascii")}
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(np.append(starts, len(flat)))
    return {"size": size, "runs": np.stack([flat[starts], lengths], axis=1).reshape(-1).tolist()}


def decode_map(found: dict[str, Any]) -> np.ndarray:
    """The map (H, W) uint8 of what `encode_map` gave."""
    if "png" in found:
        with Image.open(io.BytesIO(base64.b64decode(found["png"]))) as image:
            return np.asarray(image)  # (H, W)
    runs = np.array(found["runs"], np.int64).reshape(-1, 2)
    return runs[:, 0].astype(np.uint8).repeat(runs[:, 1]).reshape(found["size"])


def palette_png(classes: np.ndarray, colours: np.ndarray) -> bytes:
    """A PNG whose pixels are the classes (H, W) uint8, shown in `colours` (up to 256, 3) uint8."""
    return _png(classes, colours)


def _png(classes: np.ndarray, colours: np.ndarray | None = None) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(classes))
    if colours is not None:
        image.putpalette(colours.astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
