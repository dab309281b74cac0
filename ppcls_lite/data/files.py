"""Which files are images, and which of a folder count: one rule for training and prediction.

Hidden files and folders do not count, nor the folders of thumbnails and attributes that Macs and
network drives leave. Links to folders are followed, unless they lead back on the way to them. A
link to nothing is listed: whoever reads the image says that it is missing.
Read next: folder.py, unlabeled.py, ppcls_lite/inference/inputs.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ppcls_lite.errors import UserError

FORMATS = {  # Pillow's name of a format: how its files are called
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_NOT_OURS = ("@eaDir", "__MACOSX")  # of Synology drives; of archives made on a Mac
# A path up to its image suffix; what a list says behind it (a label, a score) is passed over.
_LINE = re.compile(
    rf"(?P<path>.*(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))(?:[\s,;|].*)?", re.IGNORECASE
)

Identity = tuple[int, int]  # of a folder: device and inode


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name in _NOT_OURS


def is_image_name(name: str) -> bool:
    """Whether a file's name looks like an image that is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def path_in(line: str) -> str:
    """The path in a line of a list, without what may follow it."""
    match = _LINE.fullmatch(line)
    return match["path"] if match else line


def walk_images(root: str | os.PathLike[str]) -> Iterator[str]:
    """The image files below `root`, as paths from there with `/`, by name within each folder.

    Holds one folder's names in memory. Raises UserError for a folder that cannot be read.
    """
    return (path for path in walk_files(root) if is_image_name(path.rpartition("/")[2]))


def walk_files(root: str | os.PathLike[str], hidden: bool = False) -> Iterator[str]:
    """All files below `root` as `walk_images` gives the images; hidden ones too if asked."""
    return _walk(os.fspath(root), "", _way_to(root), hidden)


def class_folders(root: str | os.PathLike[str]) -> list[str]:
    """The names of the sub-folders that are not hidden, sorted."""
    way = _way_to(root)
    entries = (e for e in _entries(os.fspath(root)) if not is_hidden(e.name))
    return [entry.name for entry in entries if _is_folder(entry) and _identity(entry) not in way]


def images_in(root: str | os.PathLike[str], folder: str) -> list[str]:
    """The image files below `root/folder`, nested folders too, as sorted paths from there."""
    return sorted(walk_images(Path(root, folder)))


def _walk(folder: str, prefix: str, way: frozenset[Identity], hidden: bool) -> Iterator[str]:
    for entry in _entries(folder):
        if is_hidden(entry.name) and not hidden:
            continue
        path = f"{prefix}{entry.name}"
        if not _is_folder(entry):
            yield path
        elif (identity := _identity(entry)) not in way:
            yield from _walk(entry.path, f"{path}/", way | {identity}, hidden)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be read: {error.strerror}; change its rights, or move it "
            "away"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a place that may not be read
        return False


def _way_to(root: str | os.PathLike[str]) -> frozenset[Identity]:
    """`root` and the folders around it."""
    place = Path(root).resolve()
    return frozenset(_identity(folder) for folder in (place, *place.parents) if folder.exists())


def _identity(folder: os.PathLike[str]) -> Identity:
    found = os.stat(folder)  # noqa: PTH116 (of an entry too)
    return found.st_dev, found.st_ino
