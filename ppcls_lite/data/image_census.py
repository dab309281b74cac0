"""One look at every image of a data set: can it be read, how large is it, which others is it like.

Read before: near_duplicates.py. Read next: image_doctor.py.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ppcls_lite.data.files import FORMATS
from ppcls_lite.data.near_duplicates import groups_of, hash_of, near_pairs, shrunk
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError
from ppcls_lite.system.machine import usable_cores

_BLANK = 2.0  # standard deviation of the grays of a picture that shows nothing


@dataclass
class Look:
    """What is known of an image file. problem: why it cannot be read; then the rest says nothing.

    size: (width, height) as it is shown. small: in gray, (32, 32) uint8.
    """

    path: str
    problem: str | None = None
    size: tuple[int, int] = (0, 0)
    format: str = ""
    misnamed: bool = False
    digest: bytes = b""
    hash: int = 0
    small: np.ndarray | None = None

    @property
    def blank(self) -> bool:
        """Whether it shows a single colour."""
        return self.small is not None and float(self.small.std()) < _BLANK


@dataclass
class Census:
    """The looks at images, and which of them are copies.

    same: byte-equal files; near: the same picture otherwise. Pairs i < j of places in `looks`.
    """

    looks: list[Look]
    same: list[tuple[int, int]] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)

    def groups(self) -> np.ndarray:
        """(n,) the first of the images that each is a copy of, itself included."""
        return groups_of(len(self.looks), [*self.same, *self.near])


def take_census(paths: Sequence[str], tell: Callable[[int], None] = lambda number: None) -> Census:
    """Look at all images, several at once; `tell` is given how many are done."""
    looks = []
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding holds no lock of the interpreter
        for number, look in enumerate(pool.map(look_at, paths), 1):
            looks.append(look)
            tell(number)
    return compare(looks)


def compare(looks: list[Look]) -> Census:
    """With the copies among them; images that show nothing, and one file twice, are none."""
    of_file = [look.path for look in looks]
    first: dict[bytes, int] = {}
    same = []
    for i, look in enumerate(looks):
        if look.digest:
            j = first.setdefault(look.digest, i)
            if of_file[j] != of_file[i]:
                same.append((j, i))
    known = [i for i, look in enumerate(looks) if look.small is not None and not look.blank]
    known = [i for i in known if first.get(looks[i].digest) == i]
    if not known:
        return Census(looks, same)
    hashes = np.array([looks[i].hash for i in known], np.uint64)
    small = np.stack([looks[i].small for i in known])
    near = [(known[i], known[j]) for i, j in near_pairs(hashes, small)]
    return Census(looks, same, near)


def look_at(path: str) -> Look:
    """Read and decode a file; no error for what is wrong with it."""
    try:
        data = read_file(path)
        image = decode_rgb(data, path)  # whole: a damaged file may begin well
    except ImageError as error:
        return Look(path, str(error))
    height, width = image.shape[:2]
    form = _format(data)
    form = "JPEG" if form == "MPO" else form  # several of them in one file, as phones write
    wrong = form in FORMATS and Path(path).suffix.lower() not in FORMATS[form]
    small = shrunk(image)
    digest = hashlib.sha256(data).digest()
    return Look(path, None, (width, height), form, wrong, digest, hash_of(small), small)


def _format(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format or ""
    except Exception:  # Pillow's readers raise nearly anything; the image was decoded all the same
        return ""
