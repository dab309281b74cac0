"""Where results go: a place that cannot be written is refused before any work starts.

The `argparse` types below look at what an option names; nothing is made there yet.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ppcls_lite.errors import UserError


def output_folder(text: str) -> Path:
    """The type of an option that names a folder to write in, whether it is there or not."""
    return _checked(text, require_writable)


def new_folder(text: str) -> Path:
    """The type of an option that names a folder which is new or empty."""
    return _checked(text, require_new)


@contextlib.contextmanager
def fresh_folder(given: Path | None, names: Iterable[Path]) -> Iterator[Path]:
    """The folder `given`, which has to be new or empty, or else the first of `names` that is new.

    It is made at once, so that no other process takes it as well; if it stays empty, what was made
    is removed.
    """
    if given is not None:
        require_new(given)
    for place in names if given is None else [given]:
        new = [path for path in (place, *place.parents) if not path.exists()]
        if _made(place):
            break
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):  # it holds something
            for path in new:
                path.rmdir()


def _made(folder: Path) -> bool:
    """Make the folder; False if it is there."""
    require_writable(folder.parent)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def require_writable(folder: Path) -> None:
    """Raise UserError where no folder `folder` can be, or none that could be written in."""
    place = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
    if not place.is_dir():
        found = "" if place == folder else f"{place} "
        raise UserError(f"{folder}: {found}is no folder; name another place")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        found = "it" if place == folder else place
        raise UserError(f"{folder}: {found} cannot be written in; choose another, or its rights")


def require_new(folder: Path) -> None:
    """Raise UserError where `folder` holds something, or cannot be written."""
    require_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; give a new folder")


def _is_there(path: Path) -> bool:
    """Whether something has this name, a link to nowhere too. Raises OSError where none can."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _checked(text: str, require: Callable[[Path], None]) -> Path:
    if not text or "://" in text:
        expected = "expected a place on a file system"
        raise argparse.ArgumentTypeError(f"{expected}, found {text[:80]!r}")
    try:
        require(Path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OSError as error:  # a name that is too long
        raise argparse.ArgumentTypeError(f"{text[:80]}: {error.strerror}") from None
    return Path(text)
