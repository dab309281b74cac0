"""A folder that is either there as a whole or not at all.

Read before: export.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ppcls_lite.errors import UserError


@contextlib.contextmanager
def whole_folder(out_dir: Path, own_files: set[str]) -> Iterator[Path]:
    """A temporary folder beside `out_dir` that takes its place if the block ends well.

    An earlier folder there is replaced as a whole, if it holds nothing but `own_files`. If the
    block fails or is interrupted, `out_dir` is what it was before.

    Raises:
        UserError: `out_dir` is a file, holds other files, or cannot be written.
    """
    target = out_dir.resolve()
    others = sorted({p.name for p in target.iterdir()} - own_files) if target.is_dir() else []
    if others or (target.exists() and not target.is_dir()):
        found = f"holds other files ({', '.join(others[:4])})" if others else "is a file"
        raise UserError(f"{out_dir}: {found}; name a new folder in Global.save_inference_dir")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"{out_dir}: cannot be written: {error.strerror}") from error
    try:
        fresh = room / "new"
        fresh.mkdir()
        yield fresh
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.exists():
            target.rename(room / "old")
        fresh.rename(target)
    finally:
        shutil.rmtree(room, ignore_errors=True)
