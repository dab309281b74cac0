"""What was found in many files, kept in the user's folder: they are read once, not at every start.

The kept file's name holds a digest of the paths, sizes and times of change of all files that were
read, so that nothing old is ever used. Read next: annotations/kept.py, mask_census.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_bytes
from ppcls_lite.system.home import home_folder

KEPT = 16  # files of one kind that stay
Arrays = dict[str, np.ndarray]


def kept_arrays(
    kind: str, depends_on: str, files: Iterable[str], worth: int, make: Callable[[], Arrays]
) -> Arrays:
    """What `make()` finds, or what it found the last time that the `files` were the same.

    kind: the folder in the user's folder. depends_on: everything else that the result depends on,
    the version of its maker too. worth: bytes of the files from which keeping it pays. Raises
    OSError for a file that is not there.
    """
    digest, total = hashlib.sha256(f"{depends_on}\n".encode()), 0
    for file in files:
        state = os.stat(file)  # noqa: PTH116 (of many files)
        total += state.st_size
        line = f"{os.path.abspath(file)}\0{state.st_size} {state.st_mtime_ns}\n"  # noqa: PTH100
        digest.update(line.encode("utf-8", "surrogateescape"))
    if total < worth:
        return make()
    folder = home_folder() / kind
    path = folder / f"{digest.hexdigest()[:24]}.npz"
    arrays = _load(path)
    if arrays is None:
        arrays = make()
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        with contextlib.suppress(UserError):  # a folder that cannot be written: read it again
            write_bytes(path, stream.getvalue())
            _forget(folder)
    return arrays


def _load(path: Path) -> Arrays | None:
    """Kept arrays; None where there are none, or damaged ones."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        path.touch()  # used now: not the first to go
    except Exception:  # a damaged archive raises nearly anything, and is simply made again
        return None
    return arrays


def _forget(folder: Path) -> None:
    """Remove the files that were not used for the longest time."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink()
