"""Parsed annotations, kept in the user's folder: a large file is read once, not at every start.

Small annotations are not kept. Read before: table.py, ../kept_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import numpy as np

from ppcls_lite.data.annotations.table import BoxTable
from ppcls_lite.data.kept_files import Arrays, kept_arrays

WORTH = 2**21  # bytes of annotations from which keeping them pays
_VERSION = "1"  # of the readers: a change of what they find has to change it
_ARRAYS = ("image_ids", "sizes", "starts", "boxes", "classes", "areas", "flags")
_TEXTS = ("names", "files", "problems", "warnings")


def kept(kind: str, files: Iterable[str], read: Callable[[], BoxTable]) -> BoxTable:
    """What `read()` finds, or what it found the last time that the `files` were the same.

    kind: everything else that the result depends on.
    """
    arrays = kept_arrays(
        "annotations", f"{_VERSION}\0{kind}", files, WORTH, lambda: _arrays(read())
    )
    texts = json.loads(arrays["texts"].tobytes())
    return BoxTable(**texts, **{name: arrays[name] for name in _ARRAYS})


def _arrays(table: BoxTable) -> Arrays:
    texts = json.dumps({name: getattr(table, name) for name in _TEXTS})
    return {
        "texts": np.frombuffer(texts.encode(), np.uint8),
        **{name: getattr(table, name) for name in _ARRAYS},
    }
