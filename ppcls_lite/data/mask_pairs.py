"""Which mask belongs to which image, by their names: never by the order of two listings.

One missing file would shift all pairs after it. Read next: datasets_segmentation.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ppcls_lite.data.files import walk_images
from ppcls_lite.data.image_list import PathList, read_lines, require_folder, some

Key = Callable[[str], str | None]


@dataclass
class Pairs:
    """Images and their masks, one for one, in the order of the images' names.

    problems: what has no partner where it should have one. notes: masks without an image.
    """

    paths: PathList
    masks: PathList
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def stem(path: str) -> str | None:
    """A path without its suffix: by default, what an image and its mask have in common."""
    return str(PurePosixPath(path).with_suffix(""))


def ends_with(suffix: str) -> Key:
    """A key for names that end in `suffix`, which is cut off; other files have none."""
    return lambda path: path[: -len(suffix)] if path.endswith(suffix) else None


def pair(
    images: str,
    masks: str,
    image_key: Key = stem,
    mask_key: Key = stem,
    only: Sequence[str] | None = None,
) -> Pairs:
    """The images below the folder `images` with the masks below `masks` of the same key.

    `only`: the keys to use, in their order. UserError where one of the folders does not exist.
    """
    for folder in (images, masks):
        require_folder(folder)
    problems: list[str] = []
    by_key = _by_key(images, image_key, problems), _by_key(masks, mask_key, problems)
    keys = [*by_key[0]] if only is None else list(only)
    lacking = [key for key in keys if key not in by_key[1] and key in by_key[0]]
    if lacking:
        problems.append(
            f"{images}: {len(lacking):,} of {len(keys):,} images have no mask in {masks}: "
            f"{some([by_key[0][key] for key in lacking])}; a mask has its image's name, with a "
            "suffix of its own: add the masks, or move these images away"
        )
    unknown = [key for key in keys if key not in by_key[0]]
    if unknown:
        problems.append(f"{images}: {len(unknown):,} images are missing: {some(unknown)}")
    notes = []
    alone = [mask for key, mask in by_key[1].items() if key not in by_key[0]]
    if alone and only is None:
        notes.append(f"{len(alone):,} masks in {masks} have no image in {images}: {some(alone)}")
    if not by_key[0]:
        problems.append(f"{images}: there are no images")
    keys = [key for key in keys if key in by_key[0] and key in by_key[1]]
    return Pairs(
        PathList((by_key[0][key] for key in keys), images),
        PathList((by_key[1][key] for key in keys), masks),
        problems,
        notes,
    )


def read_keys(file: str | Path) -> list[str]:
    """The keys in a text file, one a line, as in VOC's ImageSets; a suffix is cut off."""
    lines = (line.replace(os.sep, "/") for _, line in read_lines(str(file)))
    return [str(stem(line)) if PurePosixPath(line).suffix else line for line in lines]


def _by_key(folder: str, key_of: Key, problems: list[str]) -> dict[str, str]:
    """Key -> path below `folder`; two files of one key become a problem."""
    found: dict[str, str] = {}
    double = []
    for path in walk_images(folder):
        key = key_of(path.replace(os.sep, "/"))
        if key is None:
            continue
        if key in found:
            double.append(f"{found[key]} and {path}")
        found.setdefault(key, path)
    if double:
        problems.append(
            f"{folder}: {len(double):,} names stand for two files: {some(double)}; keep one of each"
        )
    return found
