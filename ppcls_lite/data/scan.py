"""Looks for mistakes in the data before training: all of them, in one report.

Existence is checked one folder at a time: one listing instead of 1,300 single questions, which
matters on a network drive. Paths are compared by their hashes, 8 bytes each: as strings, millions
of them would take gigabytes. Read before: image_list.py, datasets.py. Read next: copies.py.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.data.copies import copies
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.image_list import some
from ppcls_lite.errors import UserError

FEW = 16  # up to so many files of one folder are looked for one by one


@dataclass
class ScanReport:
    """What a scan found: `errors` stop a training, `warnings` are worth a line in the log.

    facts: by split, what is in its annotations, for whoever asks.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, list[str]] = field(default_factory=dict)

    def raise_errors(self) -> None:
        """Raise one UserError that names every error."""
        count = len(self.errors)
        if count:
            head = f"{count} mistake{'s' if count > 1 else ''} in the data:"
            raise UserError("\n  ".join([head, *self.errors]))


def scan(datasets: Mapping[str, ImageDataset], thorough: bool = False) -> ScanReport:
    """Check data sets, given by the name of their split: `{"Train": ..., "Eval": ...}`.

    Errors: what the data set noted when it was made (`problems`), its missing `files`, and what
    its `inspect` finds in the annotation files, of which `thorough` looks at all.
    Warnings: the data sets' own `warnings`, duplicates within a split, images that two splits share
    by path or content, `gaps`, classes so large that a score is easy to
    misread.
    """
    report = ScanReport()
    keys: dict[str, np.ndarray] = {}
    for split, dataset in datasets.items():
        report.errors += [f"{split}: {problem}" for problem in dataset.problems]
        report.warnings += [f"{split}: {dataset.source}: {text}" for text in dataset.warnings]
        paths, files = dataset.paths, dataset.files()
        files = files if isinstance(files, Sequence) else list(files)
        missing = missing_files(files)
        if missing:
            kind = "images" if len(files) == len(paths) else "files"
            report.errors.append(
                f"{split}: {dataset.source}: {len(missing):,} of {len(files):,} {kind} do not "
                f"exist: {some(missing)}; correct the list or image_root"
            )
        else:
            found = dataset.inspect(thorough)
            report.errors += [f"{split}: {dataset.source}: {text}" for text in found.errors]
            report.warnings += [f"{split}: {dataset.source}: {text}" for text in found.warnings]
            report.facts[split] = found.facts
        keys[split] = np.fromiter(map(hash, map(_normal, paths)), np.int64, len(paths))
        twice = _Chosen(paths, _repeated(keys[split]))
        if len(twice):
            report.warnings.append(
                f"{split}: {dataset.source}: {len(twice):,} images are listed more than once: "
                f"{some(twice)}"
            )
    for split, dataset in datasets.items():
        report.warnings += [f"{split}: {dataset.source}: {gap}" for gap in dataset.gaps()]
        report.warnings += [f"{split}: {dataset.source}: {text}" for text in dataset.imbalance()]
    report.warnings += _numbers(datasets)
    report.warnings += _shared(datasets, keys)
    report.warnings += _copies(datasets, keys)
    return report


def _numbers(datasets: Mapping[str, ImageDataset]) -> list[str]:
    """A warning where only one split says what its class numbers stand for."""
    own = [split for split, dataset in datasets.items() if dataset.numbers_classes]
    silent = [split for split, dataset in datasets.items() if dataset.class_keys is None]
    if not own or not silent:
        return []
    return [
        f"{own[0]} numbers its classes itself ({some(datasets[own[0]].class_keys)}), the list of "
        f"{silent[0]} states numbers: nothing says whether they are the same"
    ]


def missing_files(paths: Sequence[str]) -> list[str]:
    """Those of `paths` that are no files, in their order."""
    folders: dict[str, int] = {}
    inside = np.empty(len(paths), np.int32)  # the number of the folder
    names = np.empty(len(paths), np.int64)  # the hash of the name in it
    for place, path in enumerate(paths):
        cut = path.rfind("/") + 1
        inside[place] = folders.setdefault(path[:cut], len(folders))
        names[place] = hash(path[cut:])
    order = np.argsort(inside, kind="stable")
    bounds = np.searchsorted(inside[order], np.arange(len(folders) + 1)).tolist()
    gone: list[int] = []
    for folder, first, last in zip(folders, bounds, bounds[1:]):
        places = order[first:last]
        there = _present(folder, paths, places, names[places])
        gone += places[~there].tolist()
    return [paths[place] for place in sorted(gone)]


def _present(
    folder: str, paths: Sequence[str], places: np.ndarray, names: np.ndarray
) -> np.ndarray:
    """Which of the paths at `places`, all in one folder, are files; `names`: their hashes."""
    try:
        if len(places) <= FEW:
            return np.array([_is_file(Path(paths[place])) for place in places], bool)
        with os.scandir(folder or ".") as entries:
            found = np.array([hash(entry.name) for entry in entries if _is_file(entry)], np.int64)
            return _among(names, found)
    except PermissionError as error:
        name = folder.rstrip("/") or folder
        raise UserError(f"{name}: the image folder cannot be read: {error.strerror}") from error
    except OSError:  # there is no such folder, or there can be none
        return np.zeros(len(places), bool)


def _is_file(place: Path | os.DirEntry[str]) -> bool:
    """Whether there is a file, also behind a link; False for a name that no file can have."""
    try:
        return place.is_file()
    except PermissionError:
        raise
    except OSError:
        return False


def _shared(datasets: Mapping[str, ImageDataset], keys: Mapping[str, np.ndarray]) -> list[str]:
    """Warnings for each pair of splits that have images in common."""
    warnings = []
    for first, second in combinations(datasets, 2):
        places = np.flatnonzero(_among(keys[first], keys[second]))
        if datasets[first].source == datasets[second].source:
            if len(places):
                warnings.append(
                    f"{first} and {second} read the same list, {datasets[first].source}: the "
                    "score will say how well the images are remembered, not recognised"
                )
            continue
        both = sorted(set(_Chosen(datasets[first].paths, places)))
        if both:
            warnings.append(
                f"{len(both):,} images are in {first} as well as in {second}: {some(both)}; "
                "the score will be too good"
            )
        others = np.flatnonzero(~_among(keys[second], keys[first]))
        twins, count = copies(
            _Chosen(datasets[first].paths, np.arange(len(keys[first]))),
            _Chosen(datasets[second].paths, others),
        )
        if twins:
            warnings.append(
                f"{len(twins):,} of {count:,} images of {second} that were looked at are copies of "
                f"images in {first}, byte by byte: {some(twins)}; the score will be too good"
            )
    return warnings


def _copies(datasets: Mapping[str, ImageDataset], keys: Mapping[str, np.ndarray]) -> list[str]:
    """A warning where a pool without labels has evaluation images under other names.

    By content, to the byte; files are read only where their sizes agree.
    """
    if "Eval" not in datasets or "Train" not in datasets or not datasets["Train"].has_unlabeled:
        return []
    sizes: dict[int, list[str]] = {}
    for path in datasets["Eval"].paths:
        sizes.setdefault(_size(path), []).append(path)
    known: dict[int, set[bytes]] = {}
    found = set()
    others = np.flatnonzero(~_among(keys["Train"], keys["Eval"]))
    for path in _Chosen(datasets["Train"].paths, others):
        size = _size(path)
        if size in sizes and size > 0:
            if size not in known:
                known[size] = {_digest(other) for other in sizes[size]}
            if _digest(path) in known[size]:
                found.add(path)
    if not found:
        return []
    return [
        f"{len(found):,} images of Train are copies of images of Eval: {some(sorted(found))}; the "
        "score will be too good. `ppcls-lite select --val` leaves out near-duplicates, too"
    ]


class _Chosen(Sequence[str]):
    """Some of many paths, in their normal spelling, made when they are asked for."""

    def __init__(self, paths: Sequence[str], places: np.ndarray) -> None:
        self._paths, self._places = paths, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [*_Chosen(self._paths, self._places[index])]
        return _normal(self._paths[int(self._places[index])])


def _repeated(keys: np.ndarray) -> np.ndarray:
    """The first places of the values that come more than once, in their order."""
    if len(np.unique(keys)) == len(keys):
        return np.zeros(0, np.int64)
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return np.sort(first[counts > 1])


def _among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) bool: which of `keys` are in `others`."""
    if not len(others):
        return np.zeros(len(keys), bool)
    ordered = np.sort(others)
    return ordered[np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)] == keys


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def _digest(path: str) -> bytes:
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b""


def _normal(path: str) -> str:
    """One spelling for one file; most paths are normal already, and normpath is slow."""
    return os.path.normpath(path) if "./" in path or "//" in path else path
