"""`ppcls-lite prepare scenes`: handwritten digits on canvases, with masks and boxes.

Real scans of which everything is known, for the quick starts of segmentation and detection and
for tests. The rules:

- A scene is a canvas of two random dark colours that blend into one another, with noise, and 1 to
  6 digits, each of a random scan, size (28 to 56 pixels), place inside the canvas and colour, which
  is brighter than the canvas by at least 90 grey levels.
- A pixel belongs to a digit where its ink covers at least half of it. The mask has the class
  digit + 1 there, and 0 elsewhere. A box is tight around the digit's visible pixels.
- With cards, each digit is bright ink on a nearly black square card, all of which belongs to it.
- A later digit covers earlier ones. A place where it would hide more than 15 % of any digit's
  pixels, of all that hide it together, is drawn again; after 30 tries the digit is left out.
- Scans of the validation's fifth are in no training scene. Everything follows from the seed.

Read before: digits.py. Read next: scene_files.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.data.prepare.digits import Scans, load_scans
from ppcls_lite.data.prepare.scene_files import write_scenes
from ppcls_lite.errors import UserError

SCENES_FOLDER = "dataset/scenes"  # where the quick starts' recipes look
MOST, EDGES = 6, (28, 56)  # digits of a scene; pixels of a digit's edge
HIDDEN = 0.15  # share of a digit's pixels that others may hide
TRIES = 30
CONTRAST = 90  # grey levels between canvas and ink, or canvas and card
DARK = 0.2  # of the ink's colour: the most that its card has
_LARGEST = 4096  # pixels of a canvas's edge


@dataclass
class Scene:
    """image (H, W, 3) uint8 RGB; mask (H, W) uint8, 0 or digit + 1; boxes (n, 4) int, x1 y1 x2 y2,
    digits (n,) and areas (n,), the visible pixels of each."""

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    digits: np.ndarray
    areas: np.ndarray


@dataclass
class _Canvas:
    """A scene being made: which digit each pixel shows, and how many each had before."""

    image: np.ndarray  # (H, W, 3) float32
    owner: np.ndarray  # (H, W) int, -1 for none
    digits: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)


def prepare_scenes(
    output: str | Path, images: int, val: int, size: tuple[int, int], seed: int, cards: bool = False
) -> None:
    """Write `images` scenes for training and `val` for validation, `size` = (width, height).

    Raises UserError for sizes or numbers that cannot be.
    """
    if not EDGES[1] <= min(size) <= max(size) <= _LARGEST:
        raise UserError(
            f"--size is {size[0]} {size[1]}; expected {EDGES[1]} to {_LARGEST} pixels, as in "
            "--size 160 128"
        )
    if images < 1 or val < 1 or seed < 0:
        raise UserError(f"--images {images} --val {val} --seed {seed}: expected 1 or more, seed 0")
    scans = load_scans()
    for number, (split, count) in enumerate({"train": images, "val": val}.items()):
        rngs = (np.random.default_rng((seed, number, i)) for i in range(count))
        scenes = (make_scene(scans, split == "val", size, rng, cards) for rng in rngs)
        write_scenes(Path(output), split, scenes)
    print(
        f"{images:,} scenes for training and {val:,} for validation in {output}: images and masks "
        f"(train_list.txt, val_list.txt), boxes (instances_train.json, ...; voc_train.txt, ...)"
    )


def make_scene(
    scans: Scans,
    validation: bool,
    size: tuple[int, int],
    rng: np.random.Generator,
    cards: bool = False,
) -> Scene:
    """One scene of `size` = (width, height), by the rules above."""
    width, height = size
    chosen = np.flatnonzero(scans.in_val == validation)
    image, grey = _background(width, height, rng)
    canvas = _Canvas(image, np.full((height, width), -1))
    for _ in range(int(rng.integers(1, MOST + 1))):
        scan = int(rng.choice(chosen))
        _paste(canvas, scans.images[scan], int(scans.labels[scan]), grey, cards, rng)
    # The noise of a camera, over everything.
    noisy = canvas.image + rng.normal(0, 6, (height, width, 3))
    numbers = range(len(canvas.digits))
    visible = [canvas.owner == i for i in numbers]
    digits = np.array(canvas.digits, np.int64)
    mask = np.concatenate([[0], digits + 1])[canvas.owner + 1]
    return Scene(
        noisy.round().clip(0, 255).astype(np.uint8),
        mask.astype(np.uint8),
        np.array([_around(pixels) for pixels in visible]).reshape(-1, 4),
        digits,
        np.array([int(pixels.sum()) for pixels in visible]),
    )


def _background(width: int, height: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A canvas (H, W, 3) float32, and its brightest grey level."""
    colours = rng.uniform(0, 160, 3) + rng.uniform(-30, 30, (2, 3))  # two that are not far apart
    colours = colours.clip(0, 160)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = np.cos(angle) * x / width + np.sin(angle) * y / height
    share = (along - along.min()) / max(np.ptp(along), 1e-6)
    image = colours[0] + share[..., None] * (colours[1] - colours[0])
    return image.astype(np.float32), float(_grey(colours).max())


def _paste(
    canvas: _Canvas,
    scan: np.ndarray,
    digit: int,
    grey: float,
    cards: bool,
    rng: np.random.Generator,
) -> None:
    """Draw a digit where it hides little, or not at all if there is no such place."""
    height, width = canvas.owner.shape
    colour = _bright(grey, rng)
    card = colour * rng.uniform(0, DARK, 3).astype(np.float32) if cards else None
    for _ in range(TRIES):
        edge = int(rng.integers(EDGES[0], EDGES[1] + 1))
        ink = cv2.resize(scan, (edge, edge), interpolation=cv2.INTER_CUBIC) / np.float32(255)
        ink = ink.clip(0, 1)
        left, top = (int(rng.integers(room - edge + 1)) for room in (width, height))
        window = (slice(top, top + edge), slice(left, left + edge))
        solid = np.ones_like(ink, bool) if cards else ink >= 0.5
        owner = canvas.owner.copy()
        owner[window][solid] = len(canvas.digits)
        left_over = np.bincount(owner[owner >= 0], minlength=len(canvas.digits) + 1)
        pixels = [*canvas.pixels, int(solid.sum())]
        if all(seen >= (1 - HIDDEN) * all_ for seen, all_ in zip(left_over, pixels, strict=True)):
            canvas.owner, canvas.pixels = owner, pixels
            canvas.digits.append(digit)
            under = canvas.image[window] if card is None else card
            canvas.image[window] = under + ink[..., None] * (colour - under)
            return


def _bright(grey: float, rng: np.random.Generator) -> np.ndarray:
    """A colour (3,) that stands out from a canvas up to this grey level."""
    while True:
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if _grey(colour) >= grey + CONTRAST:
            return colour


def _grey(colours: np.ndarray) -> np.ndarray:
    """The luminance (...) of colours (..., 3), ITU-R 601."""
    return colours @ np.array([0.299, 0.587, 0.114])


def _around(pixels: np.ndarray) -> list[int]:
    """The box x1 y1 x2 y2 around what is true in (H, W)."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
