"""Where an exported classifier found a class: the program `maps` beside the predictor's.

`export --with-maps` writes it (programs.py). Read next: ppcls_lite/serve/app.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engine_process import EngineProcess
from ppcls_lite.inference.engines import EngineChoice
from ppcls_lite.inference.engines.files import input_shape
from ppcls_lite.inference.preprocess import Prepared

FOLDER = "maps"
_DARKEST = 0.35  # share of the colour where nothing speaks for the class
_UNSEEN = (0, 0, 0, 192)  # what the network was not shown


class Maps:
    """Runs the program of maps, in a process of its own, as long as a `with` block lasts.

    folder: the exported one. engine: what runs it, with fp32; Paddle where the program is there for
    Paddle alone. limit: seconds of a run; one that
    takes longer ends the process. Raises UserError where the folder has no such program, or the
    engine cannot run it.
    """

    def __init__(self, folder: Path, engine: EngineChoice, limit: float) -> None:
        if not (folder / FOLDER).is_dir():
            raise UserError(f"{folder}: has no {FOLDER}/: export the network with --with-maps")
        if not any((folder / FOLDER).glob("*.onnx")):
            engine = replace(engine, engine="paddle")
        shape = input_shape(folder / FOLDER, engine.engine, "fp32")
        if shape is None:
            raise UserError(f"{folder / FOLDER}: says no size of images; export again")
        make = partial(engine.make, folder / FOLDER, (1, *shape))
        self._process = EngineProcess(make, math.prod(shape))
        self._process.limit = limit

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.close()

    @property
    def alive(self) -> bool:
        """Whether the engine can run."""
        return self._process.alive

    def of(self, array: np.ndarray) -> np.ndarray:
        """An image as the network sees it (C, H, W) -> the maps of all classes (classes, h, w).

        A map is large where the image speaks for the class, and negative where against it.
        """
        return self._process.run(array[None])[0][0]


def glow(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) as a layer of `size` (H, W), (H, W, 4) uint8 RGBA: where the class is, it glows.

    What speaks against it, below 0, is as dark as nothing; so is a map without anything above 0.
    """
    large = cv2.resize(np.maximum(heat, 0), size[::-1], interpolation=cv2.INTER_LINEAR)
    share = (large / max(float(large.max()), 1e-12)).clip(0, 1)  # (H, W)
    colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    alpha = (255 * (_DARKEST + (1 - _DARKEST) * share)).round().astype(np.uint8)
    return np.dstack([colours, alpha])


def over_photograph(heat: np.ndarray, seen: Prepared, longest: int) -> np.ndarray:
    """A map of what the network saw as a layer over the photograph, (H, W, 4) uint8 RGBA.

    What was cut off before is dark. longest: pixels of its longer edge, at most.
    """
    meta, sizes = seen.meta, seen.array.shape[1:]
    scale = min(1.0, longest / max(meta.height, meta.width))
    width, height = (max(1, round(edge * scale)) for edge in (meta.width, meta.height))
    turn = meta.source * scale
    turn[:, 2] += turn[:, :2] @ [0.5, 0.5] - 0.5  # from edges of pixels to their middles
    layer, flags = glow(heat, sizes), cv2.INTER_LINEAR
    return cv2.warpAffine(layer, turn, (width, height), flags=flags, borderValue=_UNSEEN)
