"""How many pixels each class of a data set has, and what follows from it.

Read before: mask_census.py, mask_rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.data.image_list import some
from ppcls_lite.data.mask_census import Census
from ppcls_lite.data.mask_rules import WRONG, MaskRules
from ppcls_lite.data.transforms.geometry import MASK_FILL

MUCH_IGNORED = 0.5  # share of the pixels that count nowhere, worth a warning
RARE = 0.001  # share of a class worth a warning
LOPSIDED = 0.95  # share of a class from which pixel accuracy says little
_ROWS = 40  # of the table of classes
_MAX_WEIGHT = 10.0


class Masks(NamedTuple):
    """The mask files of a data set, how they are read, and the classes' names, if known."""

    files: Sequence[str]
    rules: MaskRules
    names: Sequence[Any] | None


def class_weights(pixels: np.ndarray) -> list[float]:
    """Weights of classes by their pixels (C,): the median share over the class's own.

    Source: Eigen and Fergus, arXiv 1411.4734, section 6.3 (median frequency balancing). At most
    10; 1 for a class that does not occur.
    """
    present = pixels[pixels > 0]
    if not len(present):
        return [1.0] * len(pixels)
    weights = np.median(present) / np.maximum(pixels, 1)
    return [round(float(min(w, _MAX_WEIGHT)), 2) if n else 1.0 for w, n in zip(weights, pixels)]


def pixels_of_classes(rules: MaskRules, census: Census) -> np.ndarray:
    """Pixels (C,) of each class."""
    total = census.counts.sum(axis=0)
    real = (rules.table != MASK_FILL) & (rules.table != WRONG)
    count = rules.class_num or int(rules.table[real & (total > 0)].max(initial=0)) + 1
    return np.bincount(rules.table[real], total[real], minlength=count)[:count].astype(np.int64)


def _ignored(rules: MaskRules, census: Census) -> float:
    """The share of the pixels that count nowhere."""
    total = census.counts.sum(axis=0)
    return float(total[rules.table == MASK_FILL].sum() / max(total.sum(), 1))


def strange_shares(data: Masks, classes: np.ndarray, census: Census) -> list[str]:
    """What in the shares of the classes, by their pixels (C,), is worth a warning."""
    found = []
    real, ignored = int(classes.sum()), _ignored(data.rules, census)
    if ignored > MUCH_IGNORED:
        found.append(f"{ignored:.1%} of all pixels count nowhere")
    label = _labels(data, len(classes))
    absent = [label[i] for i in np.flatnonzero(classes == 0)]
    if absent and real:
        found.append(
            f"{len(absent):,} of {len(classes):,} classes have no pixel in "
            f"{_looked_at(data, census)}: {some(absent)}"
        )
    shares = classes / max(real, 1)
    rare = [f"{label[i]} {shares[i]:.3%}" for i in np.flatnonzero((shares > 0) & (shares < RARE))]
    if rare:
        found.append(
            f"{len(rare):,} classes have less than {RARE:.1%} of the pixels: {some(rare)}; class "
            "weights let them count more (`ppcls-lite check` suggests some)"
        )
    if real and shares.max() >= LOPSIDED and np.count_nonzero(classes) > 1:
        found.append(
            f"{shares.max():.1%} of the pixels are of class {label[int(shares.argmax())]}: always "
            f"answering it has that pixel accuracy; look at the IoU of the others"
        )
    return found


def _labels(data: Masks, count: int) -> list[str]:
    names = data.names or ()
    return [f"{i} {names[i]}" if i < len(names) else str(i) for i in range(count)]


def _looked_at(data: Masks, census: Census) -> str:
    number = len(census.places)
    if number == len(data.files):
        return f"the {number:,} masks"
    return f"the {number:,} of {len(data.files):,} masks that were looked at"


def facts(data: Masks, classes: np.ndarray, census: Census) -> list[str]:
    """What is in the masks, as lines: values, a table of classes, weights that even them out."""
    real = max(int(classes.sum()), 1)
    present = np.flatnonzero(census.counts.sum(axis=0)).tolist()
    files = (census.counts > 0).astype(np.int64)  # (n, 256)
    per_class = np.zeros(len(classes), np.int64)
    for i in range(len(classes)):
        per_class[i] = int((files[:, data.rules.table == i].sum(axis=1) > 0).sum())
    kinds = sorted({Path(mask).suffix.lower() for mask in data.files})
    lines = [
        f"{_looked_at(data, census)} ({', '.join(kinds)}): values {_ranges(present)}; "
        f"{_ignored(data.rules, census):.1%} of the pixels count nowhere "
        f"({data.rules.describe_ignored()})",
        f"{'class':24}{'pixels':>9}{'images':>9}",
    ]
    label = _labels(data, len(classes))
    order = np.arange(len(classes))
    if len(order) > _ROWS:
        order = np.argsort(classes, kind="stable")[:_ROWS]
        lines[-1] = f"{f'the {_ROWS} rarest classes':24}{'pixels':>9}{'images':>9}"
    lines += [f"{label[i]:24.24}{classes[i] / real:9.2%}{per_class[i]:9,}" for i in order]
    if len(classes) <= _ROWS and (classes > 0).sum() > 1:
        weights = ", ".join(f"{weight:g}" for weight in class_weights(classes))
        lines.append(f"class weights that even out the pixels: [{weights}]")
    return lines


def _ranges(numbers: list[int]) -> str:
    """`0 to 11, 255` for many numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [f"{p[0]} to {p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts]
    return some(texts)
