"""Looks for mistakes in the data before training: all of them, in one report.

Existence is checked one folder at a time: one listing instead of 1,300 single questions, which
matters on a network drive. Read before: image_list.py, datasets.py. Read next: copies.py.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from ppcls_lite.data.copies import copies
from ppcls_lite.data.datasets import ImageDataset
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
    keys: dict[str, list[str]] = {}
    for split, dataset in datasets.items():
        report.errors += [f"{split}: {problem}" for problem in dataset.problems]
        report.warnings += [f"{split}: {dataset.source}: {text}" for text in dataset.warnings]
        paths = list(dataset.paths)
        files = list(dataset.files())
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
        keys[split] = [_normal(path) for path in paths]
        twice = [path for path, count in Counter(keys[split]).items() if count > 1]
        if twice:
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


def missing_files(paths: Iterable[str]) -> list[str]:
    """Those of `paths` that are no files, in their order."""
    by_folder: defaultdict[str, set[str]] = defaultdict(set)
    for folder, name in map(os.path.split, paths):
        by_folder[folder].add(name)
    gone = {folder: names - _present(folder, names) for folder, names in by_folder.items()}
    if not any(gone.values()):
        return []
    return [p for p in paths if (parts := os.path.split(p))[1] in gone[parts[0]]]


def _present(folder: str, names: set[str]) -> set[str]:
    try:
        if len(names) <= FEW:
            return {name for name in names if _is_file(Path(folder, name))}
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except PermissionError as error:
        raise UserError(f"{folder}: the image folder cannot be read: {error.strerror}") from error
    except OSError:  # there is no such folder, or there can be none
        return set()


def _is_file(place: Path | os.DirEntry[str]) -> bool:
    """Whether there is a file, also behind a link; False for a name that no file can have."""
    try:
        return place.is_file()
    except PermissionError:
        raise
    except OSError:
        return False


def _shared(datasets: Mapping[str, ImageDataset], keys: Mapping[str, list[str]]) -> list[str]:
    """Warnings for each pair of splits that have images in common."""
    warnings = []
    for first, second in combinations(datasets, 2):
        both = sorted(set(keys[first]) & set(keys[second]))
        if both and datasets[first].source == datasets[second].source:
            warnings.append(
                f"{first} and {second} read the same list, {datasets[first].source}: the "
                "score will say how well the images are remembered, not recognised"
            )
        elif both:
            warnings.append(
                f"{len(both):,} images are in {first} as well as in {second}: {some(both)}; "
                "the score will be too good"
            )
        if datasets[first].source == datasets[second].source:
            continue
        known = set(both)
        twins, count = copies(keys[first], [key for key in keys[second] if key not in known])
        if twins:
            warnings.append(
                f"{len(twins):,} of {count:,} images of {second} that were looked at are copies of "
                f"images in {first}, byte by byte: {some(twins)}; the score will be too good"
            )
    return warnings


def _copies(datasets: Mapping[str, ImageDataset], keys: Mapping[str, list[str]]) -> list[str]:
    """A warning where a pool without labels has evaluation images under other names.

    By content, to the byte; files are read only where their sizes agree.
    """
    if "Eval" not in datasets or "Train" not in datasets or not datasets["Train"].has_unlabeled:
        return []
    sizes: dict[int, list[str]] = {}
    for path in keys["Eval"]:
        sizes.setdefault(_size(path), []).append(path)
    known: dict[int, set[bytes]] = {}
    found = []
    for path in sorted(set(keys["Train"]) - set(keys["Eval"])):
        size = _size(path)
        if size in sizes and size > 0:
            if size not in known:
                known[size] = {_digest(other) for other in sizes[size]}
            if _digest(path) in known[size]:
                found.append(path)
    if not found:
        return []
    return [
        f"{len(found):,} images of Train are copies of images of Eval: {some(found)}; the score "
        "will be too good. `ppcls-lite select --val` leaves out near-duplicates, too"
    ]


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
