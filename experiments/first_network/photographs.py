"""A folder of 300 photographs with planted faults: wrong labels, copies, a lonely class, a broken
file. The pictures are scikit-learn's digits, enlarged and lit in different ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.data.prepare.digits import DIGITS, load_scans

EDGE = 64
CLASSES = (0, 1, 2, 3, 4, 6)  # six digits
WRONG = 7
LONELY = "lonely"

# ways to copy a picture (H, W, 3): the file's bytes are made of what comes out
COPIES: dict[str, Callable[[np.ndarray], tuple[str, bytes]]] = {
    "re-encoded": lambda image: _file(image, ".jpg", 60),
    "as PNG": lambda image: _file(image, ".png"),
    "half the size": lambda image: _file(cv2.resize(image, None, fx=0.5, fy=0.5), ".jpg", 90),
    "brighter": lambda image: _file(cv2.convertScaleAbs(image, alpha=1.2, beta=10), ".jpg", 90),
}


@dataclass
class Planted:
    """What was planted: paths from the folder. wrong: file -> its true class; copies: file -> of
    which it is one."""

    wrong: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    lonely: str = LONELY
    broken: str = ""


def make(folder: Path, count: int = 300, seed: int = 0) -> Planted:
    """Write `count` photographs in all, faults included, and return what was planted."""
    rng = np.random.default_rng(seed)
    scans = load_scans()
    planted = Planted()
    good = count - len(COPIES) - 2 - 2  # two byte-equal copies, a lonely and a broken file
    files: list[tuple[str, np.ndarray]] = []
    for number in range(good):
        digit = CLASSES[number % len(CLASSES)]
        scan = scans.images[rng.choice(np.flatnonzero(scans.labels == digit))]
        shown = digit
        if number < WRONG:
            shown = CLASSES[(number + 1 + number // len(CLASSES)) % len(CLASSES)]
        name = f"{DIGITS[shown]}/{number:03d}.jpg"
        if shown != digit:
            planted.wrong[name] = DIGITS[digit]
        image = photograph(scan, rng)
        files.append((name, image))
        _write(folder / name, _file(image, ".jpg", 95)[1])
    originals = [files[i] for i in WRONG + rng.permutation(good - WRONG)[: len(COPIES) + 2]]
    for i, (name, image) in enumerate(originals):
        stem = name.partition(".")[0]
        if i < len(COPIES):
            suffix, data = list(COPIES.values())[i](image)
        else:
            suffix, data = ".jpg", (folder / name).read_bytes()
        copy = f"{stem}_copy{suffix}"
        planted.copies[copy] = name
        _write(folder / copy, data)
    five = scans.images[int(np.flatnonzero(scans.labels == 5)[0])]
    _write(folder / LONELY / "one.jpg", _file(photograph(five, rng), ".jpg", 95)[1])
    planted.broken = f"{DIGITS[CLASSES[0]]}/broken.jpg"
    data = _file(photograph(five, rng), ".jpg", 95)[1]
    _write(folder / planted.broken, data[: len(data) // 2])
    return planted


def photograph(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scan (8, 8) as a picture (64, 64, 3) uint8: its own colours, light, tilt and noise."""
    ink, paper = rng.uniform(120, 255, 3), rng.uniform(0, 90, 3)
    tilt = cv2.getRotationMatrix2D((EDGE / 2, EDGE / 2), rng.uniform(-12, 12), rng.uniform(0.8, 1))
    tilt[:, 2] += rng.uniform(-4, 4, 2)
    large = cv2.resize(scan, (EDGE, EDGE), interpolation=cv2.INTER_CUBIC)
    share = cv2.warpAffine(large, tilt, (EDGE, EDGE))[..., None] / 255
    light = np.linspace(*rng.uniform(-25, 25, 2), EDGE)[None, :, None]
    image = paper + (ink - paper) * share + light + rng.normal(0, 5, (EDGE, EDGE, 3))
    return np.rint(image).clip(0, 255).astype(np.uint8)


def keep(planted: Planted, file: Path) -> None:
    """Write down what was planted."""
    file.write_text(json.dumps(asdict(planted), indent=1), encoding="utf-8")


def _file(image: np.ndarray, suffix: str, quality: int = 95) -> tuple[str, bytes]:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    return suffix, cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
