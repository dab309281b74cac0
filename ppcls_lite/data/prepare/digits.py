"""scikit-learn's handwritten digits: the real images that come with a package.

Read next: scenes.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ppcls_lite.data.image_list import write_lines
from ppcls_lite.data.prepare.next_step import labels_at, with_lists
from ppcls_lite.data.prepare.split import stratified_split
from ppcls_lite.errors import UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_FOLDER = "dataset/digits"  # where the quick start's recipe looks


class Scans(NamedTuple):
    """`images` (n, 8, 8) uint8, white on black, `labels` (n,), and which are for validation."""

    images: np.ndarray
    labels: np.ndarray
    in_val: np.ndarray


def load_scans() -> Scans:
    """The digits (UCI, 17 grays), a fifth of each digit's scans for validation.

    Raises UserError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: "
            'pip install "scikit-learn>=1.3"'
        ) from error
    data = load_digits()
    gray = np.rint(data.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
    return Scans(gray, data.target, stratified_split(data.target, 0.2, seed=0))


def prepare_digits(output: str | Path) -> None:
    """Write the scans as 32x32 PNG files; a file's name ends in its digit."""
    scans = load_scans()
    root = Path(output)
    for split, chosen in (("train", ~scans.in_val), ("val", scans.in_val)):
        (root / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for i in np.flatnonzero(chosen):
            name = f"{split}/{i:04d}_{scans.labels[i]}.png"
            large = cv2.resize(scans.images[i], (32, 32), interpolation=cv2.INTER_LINEAR)
            (root / name).write_bytes(cv2.imencode(".png", large)[1].tobytes())
            lines.append(f"{name} {scans.labels[i]}")
        write_lines(root / f"{split}_list.txt", lines)
    write_lines(root / "labels.txt", [f"{i} {name}" for i, name in enumerate(DIGITS)])
    print(
        f"{len(scans.labels):,} images of 10 digits in {root}: {np.sum(~scans.in_val):,} for "
        f"training, {np.sum(scans.in_val):,} for validation\n"
        f"next: {_train_digits(root)}"
    )


def _train_digits(root: Path) -> str:
    """The quick start's command, with the paths where they are not the recipe's own."""
    recipe = "configs/quickstart/digits.yaml"
    if root == Path(DIGITS_FOLDER):
        return f"ppcls-lite train -c {recipe}"
    more = labels_at(root), f"Infer.infer_imgs={root / 'val'}"
    return str(with_lists(recipe, root, root, *more))
