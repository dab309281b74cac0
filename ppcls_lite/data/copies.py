"""Images that two splits share by content, whatever the files are called.

Only files of equal size are read, and only so many are looked at that a start stays quick, also on
a network drive: of more files, the copies found are those of a sample. Read before: scan.py.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

LOOKED_AT = (50_000, 5_000)  # files of the first and the second split whose sizes are compared
READ = 2_000  # files of which something is read, at most
HEAD = 4096  # bytes that are compared before whole files


def copies(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], int]:
    """Files of `second` whose bytes a file of `first` has as well, and how many were looked at.

    No path is in both. Empty files and those that cannot be read are passed over.
    """
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for path in _spread(first, LOOKED_AT[0]):
        by_size[_size(path)].append(path)
    heads: dict[int, dict[bytes, list[str]]] = {}  # by size: of the files of `first`
    whole = functools.cache(_digest)
    found, left, others = [], READ, _spread(second, LOOKED_AT[1])
    for path in others:
        size = _size(path)
        if size <= 0 or size not in by_size:
            continue
        if size not in heads:
            alike = by_size[size][: max(left, 0)]
            left -= len(alike)
            heads[size] = defaultdict(list)
            for other in alike:
                heads[size][_digest(other, HEAD)].append(other)
        if left <= 0:
            break
        left -= 1
        alike = heads[size].get(_digest(path, HEAD), [])
        if alike and whole(path) in map(whole, alike):
            found.append(path)
    return found, len(others)


def _spread(paths: Sequence[str], count: int) -> Sequence[str]:
    """At most `count` of them, evenly from the whole list."""
    return paths[:: max(1, -(-len(paths) // count))]


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return -1


def _digest(path: str, length: int = -1) -> bytes:
    """Of the first `length` bytes, or of all; where they cannot be read, of the path."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.sha256(file.read(length)).digest()
    except OSError:
        return path.encode(errors="surrogateescape")
