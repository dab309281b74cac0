"""What `--input` names: an image, a folder of images, or a text file that lists them.

Read next: cli/predict.py; ppcls_lite/data/files.py, which files count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.config.file import is_file, is_folder
from ppcls_lite.data.files import IMAGE_SUFFIXES, path_in, walk_images
from ppcls_lite.errors import UserError

_BETWEEN = " \t,;|"  # a path and what follows it
LIST_SUFFIXES = (".txt", ".lst", ".list", ".csv", ".tsv")


def find_images(sources: Sequence[str | Path], option: str = "--input") -> list[Path]:
    """All images that the sources name, in order; folders recursively, as `walk_images` does.

    Files that a list names are not checked for existence: each bad one is an entry of its own in
    the results. Raises UserError if a source (named by `option`) does not exist or has no image.
    """
    return [path for source in sources for path in _find(Path(source), option)]


def labels_in(sources: Sequence[str | Path], option: str = "--input") -> dict[str, str]:
    """What lists among the sources say behind a path: file -> text, where there is some."""
    lists = [s for s in map(Path, sources) if not is_folder(s) and _is_list(s)]
    return {str(path): label for s in lists for path, label in _read_list(s, option) if label}


def read_labelled(source: Path, option: str) -> list[tuple[Path, int]]:
    """The images and class ids of a list with one `path class_id` a line; or UserError."""
    if not is_file(source):
        wanted = "a list of `path class_id` lines"
        raise UserError(f"{option} {source}: no such file; expected {wanted}")
    found = []
    for path, label in _read_list(source, option):
        if not label.isdecimal():
            text = f"{path} {label}".strip()
            raise UserError(f"{option} {source}: {text!r}: expected `path class_id`")
        found.append((path, int(label)))
    return found


def _find(source: Path, option: str) -> list[Path]:
    if is_folder(source):
        found = [source / name for name in walk_images(source)]
        if not found:
            known = ", ".join(IMAGE_SUFFIXES)
            raise UserError(f"{option} {source}: no images in this folder or below it ({known})")
        return found
    if not os.path.exists(source):  # noqa: PTH110 (no error for a name that is too long)
        raise UserError(
            f"{option} {source}: no such file or folder (looked in {Path.cwd()}); expected an "
            "image, a folder of images, or a text file with one path per line"
        )
    return [path for path, _ in _read_list(source, option)] if _is_list(source) else [source]


def _is_list(source: Path) -> bool:
    return source.suffix.lower() in LIST_SUFFIXES


def _read_list(source: Path, option: str) -> list[tuple[Path, str]]:
    """The paths of a list, and what follows each of them in its line."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{option} {source}: not a UTF-8 text file: {error.reason}") from error
    except OSError as error:
        raise UserError(f"{option} {source}: cannot be read: {error.strerror}") from error
    found = images_of(text, source.parent)
    if not found:
        raise UserError(f"{option} {source}: the list is empty; expected one path per line")
    return found


def images_of(text: str, folder: Path) -> list[tuple[Path, str]]:
    """The paths in lines of a list that lies in `folder`, and what follows each in its line."""
    lines = map(str.strip, text.split("\n"))  # a name may hold what `splitlines` splits at
    rows = [(path_in(line), line) for line in lines if line]
    return [(_resolve(path, folder), line[len(path) :].strip(_BETWEEN)) for path, line in rows]


def _resolve(name: str, folder: Path) -> Path:
    """A path of a list: as it stands, or relative to the list's folder if it exists there."""
    path = Path(name)
    beside = folder / path
    return beside if beside.exists() or not path.exists() else path
