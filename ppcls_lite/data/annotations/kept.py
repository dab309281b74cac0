"""Parsed annotations, kept in the user's folder: a large file is read once, not at every start.

The kept file's name holds a digest of the paths, sizes and times of change of all files that were
read, so that nothing old is ever used. Small annotations are not kept. Read before: table.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ppcls_lite.data.annotations.table import BoxTable
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_bytes
from ppcls_lite.system.home import home_folder

WORTH = 2**21  # bytes of annotations from which keeping them pays
KEPT = 16  # tables that stay
_VERSION = "1"  # of the readers: a change of what they find has to change it
_ARRAYS = ("image_ids", "sizes", "starts", "boxes", "classes", "areas", "flags")
_TEXTS = ("names", "files", "problems", "warnings")


def kept(kind: str, files: Iterable[str], read: Callable[[], BoxTable]) -> BoxTable:
    """What `read()` finds, or what it found the last time that the `files` were the same.

    kind: everything else that the result depends on.
    """
    digest, total = hashlib.sha256(f"{_VERSION}\0{kind}\n".encode()), 0
    for file in files:
        state = os.stat(file)  # noqa: PTH116 (of many files)
        total += state.st_size
        line = f"{os.path.abspath(file)}\0{state.st_size} {state.st_mtime_ns}\n"  # noqa: PTH100
        digest.update(line.encode("utf-8", "surrogateescape"))
    if total < WORTH:
        return read()
    folder = home_folder() / "annotations"
    path = folder / f"{digest.hexdigest()[:24]}.npz"
    table = _load(path)
    if table is None:
        table = read()
        with contextlib.suppress(UserError):  # a folder that cannot be written: read it again
            write_bytes(path, _dump(table))
            _forget(folder)
    return table


def _dump(table: BoxTable) -> bytes:
    texts = json.dumps({name: getattr(table, name) for name in _TEXTS})
    arrays = {name: getattr(table, name) for name in _ARRAYS}
    stream = io.BytesIO()
    np.savez(stream, texts=np.frombuffer(texts.encode(), np.uint8), **arrays)
    return stream.getvalue()


def _load(path: Path) -> BoxTable | None:
    """A kept table; None where there is none, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            texts = json.loads(stored["texts"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
        path.touch()  # used now: not the first to go
    except Exception:  # a damaged archive raises nearly anything, and is simply made again
        return None
    return BoxTable(**{name: texts[name] for name in _TEXTS}, **arrays)


def _forget(folder: Path) -> None:
    """Remove the tables that were not used for the longest time."""
    with contextlib.suppress(OSError):
        tables = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for old in tables[:-KEPT]:
            old.unlink()
