"""What belongs to a checkpoint: sizes and checksums of its files, in `<prefix>.manifest.json`.

It says whether a file is whole without unpickling it, for a resume and after a copy to another
machine. Read next: ppcls_lite/engine/checkpoint.py.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

SUFFIX = ".manifest.json"
FORMAT = 1
BLOCK = 1 << 20


class HashingFile:
    """Passes bytes on to `file` and keeps their number and SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sum, self._bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self._sum.update(data)
        self._bytes += memoryview(data).nbytes
        return self._file.write(data)

    def entry(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._sum.hexdigest()}


def text(files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> bytes:
    """The manifest of `files` {suffix: entry}; `facts` are kept for people."""
    written = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {"format": FORMAT, **facts, "written": written, "files": files}
    return (json.dumps(content, indent=2) + "\n").encode()


def problem_of_weights(file: Path) -> str | None:
    """`problem` of a `.pdparams` file, if a checkpoint's manifest lies beside it."""
    for suffix in ("_raw.pdparams", ".pdparams"):
        prefix = file.with_name(file.name.removesuffix(suffix))
        if prefix != file and is_there(prefix):
            return problem(prefix, suffix)
    return None


def is_there(prefix: Path) -> bool:
    """Whether the checkpoint `prefix` has a manifest."""
    return os.path.lexists(prefix.with_name(prefix.name + SUFFIX))


def problem(prefix: Path, suffix: str = ".pdstate") -> str | None:
    """What is wrong with `<prefix><suffix>` according to the manifest; None if nothing.

    Without a manifest nothing is known to be wrong: versions before it wrote none.
    """
    file, listed = prefix.with_name(prefix.name + suffix), prefix.with_name(prefix.name + SUFFIX)
    if not is_there(prefix):
        return None
    try:
        entry = json.loads(listed.read_text(encoding="utf-8"))["files"][suffix]
        size, wanted = entry["bytes"], entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{listed} is damaged ({type(error).__name__})"
    try:
        if file.stat().st_size != size:
            return f"{file} has {file.stat().st_size} bytes, its manifest says {size}"
        total = hashlib.sha256()
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                total.update(block)
    except OSError as error:
        return f"{file} could not be read: {error.strerror or error}"
    if total.hexdigest() != wanted:
        return f"{file} has the right size, but its checksum is not that of its manifest"
    return None
