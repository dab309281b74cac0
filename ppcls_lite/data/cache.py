"""Decoded images kept for later epochs: in memory that the workers share, or in a mapped file.

A cache is one block: a head, a table with a row per image, and a place for the pixels of each. The
sizes are known from the files' headers, so that a lack of room shows before training starts.
Whoever first needs an image (any worker, any rank) fills its place, and marks the row last; two
that do it at once write the same bytes. A row's check sum is compared the first time that a process
reads it, so that what a crash left half written is decoded again. The name of a file in `cache_dir`
holds a digest of all paths, sizes and times of change and of the decoder's version. Samples are the
same bit by bit with and without a cache.
Read before: dataset_base.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import PIL
from PIL import Image

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file, locked, make_own, reserve

Kind = Literal["ram", "disk"]
_MAGIC = b"ppcls_lite cache 1\n".ljust(32)
_HEAD, _PAGE = 64, 4096
_ROW = np.dtype(
    [
        *(("offset", "<u8"), ("size", "<u8")),  # fixed when the block is made
        *(("height", "<u4"), ("width", "<u4"), ("sum", "<u4"), ("ready", "<u4")),
    ]
)
_MARGIN = 0.9  # share of what is free that a cache may take


class DecodedCache:
    """The pixels of some images in `block`, a shared mapping that `_layout` has prepared."""

    def __init__(self, block: mmap.mmap, count: int) -> None:
        self._block = block
        self._rows = np.frombuffer(block, _ROW, count, _HEAD)
        self._seen = np.zeros(count, bool)  # whose check sum this process has compared

    def get(self, index: int) -> np.ndarray | None:
        """A copy of an image (H, W, 3) uint8; None if it is not there."""
        row = self._rows[index]
        if not row["ready"]:
            return None
        shape = int(row["height"]), int(row["width"]), 3
        size, offset = shape[0] * shape[1] * 3, int(row["offset"])
        if size != row["size"]:
            return None
        image = np.frombuffer(self._block, np.uint8, size, offset)
        if not self._seen[index]:
            if zlib.crc32(image) != row["sum"]:
                return None
            self._seen[index] = True
        return image.reshape(shape).copy()  # transforms may write into it

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep an image (H, W, 3) uint8; one of another size than its header said is left out."""
        row = self._rows[index]
        if image.nbytes != row["size"] or image.dtype != np.uint8:
            return
        place = np.frombuffer(self._block, np.uint8, image.nbytes, int(row["offset"]))
        place[:] = image.reshape(-1)
        row["height"], row["width"] = image.shape[:2]
        row["sum"] = zlib.crc32(place)
        row["ready"] = 1

    @property
    def kept(self) -> int:
        """How many images are there."""
        return int(np.count_nonzero(self._rows["ready"]))


def in_memory(paths: Sequence[str], taken: int = 0, copies: int = 1) -> DecodedCache:
    """A cache in memory for this process and the workers that it forks.

    `taken`: bytes that other caches of this run will need; `copies`: processes on this machine that
    make the same one. Raises UserError where less than that is free.
    """
    fixed, total = _layout(paths)
    _require_room(taken + total * copies, _free_memory(), "ram", "memory", len(paths))
    block = mmap.mmap(-1, total)
    block[: len(fixed)] = fixed
    return DecodedCache(block, len(paths))


def on_disk(paths: Sequence[str], folder: str | Path, name: str, backend: str) -> DecodedCache:
    """The cache file of these images in `folder`; ranks and later runs share it.

    The file begins with `name`, older ones of which are deleted; `backend` is the decoder, "cv2" or
    "pil". Raises UserError where there is no room, or the folder cannot be written or is not ours.
    """
    folder = Path(folder)
    path = folder / f"{name}-{_digest(paths, backend)}.decoded"
    try:
        make_own(folder)
        with locked(folder / ".lock"):
            if not _is_whole(path, len(paths)):
                _create(path, paths)
                for old in folder.glob(f"{name}-*.decoded"):
                    if old != path:
                        old.unlink()
            with path.open("r+b") as file:
                return DecodedCache(mmap.mmap(file.fileno(), 0), len(paths))
    except OSError as error:
        raise UserError(
            f"cache_dir: {folder}: {error.strerror or error}; name a folder on a local disk that "
            "can be written"
        ) from error


def decoded_size(path: str) -> int:
    """The bytes of an image once decoded to 8-bit RGB, from its header; 0 if it has none."""
    try:
        with Image.open(path) as image:
            return image.width * image.height * 3
    except Exception:  # for damaged bytes Pillow raises nearly anything
        return 0


def size_of(paths: Sequence[str]) -> int:
    """The bytes of a cache of these images."""
    return _layout(paths)[1]


def _layout(paths: Sequence[str]) -> tuple[bytes, int]:
    """Head and table of an empty block for these images, and the block's whole size."""
    rows = np.zeros(len(paths), _ROW)
    rows["size"] = [decoded_size(path) for path in paths]
    first = -(-(_HEAD + rows.nbytes) // _PAGE) * _PAGE
    ends = first + np.cumsum(rows["size"], dtype=np.uint64)
    rows["offset"] = ends - rows["size"]
    total = int(ends[-1]) if len(paths) else first
    return _head(rows, total) + rows.tobytes(), max(total, first)


def _head(rows: np.ndarray, total: int) -> bytes:
    fixed = np.stack([rows["offset"], rows["size"]])
    numbers = np.array([len(rows), total, zlib.crc32(fixed.tobytes())], "<u8")
    return (_MAGIC + numbers.tobytes()).ljust(_HEAD, b"\0")


def _is_whole(path: Path, count: int) -> bool:
    """Whether the file has the length and the table that its head names."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head, table = file.read(_HEAD), file.read(count * _ROW.itemsize)
    whole = len(table) == count * _ROW.itemsize
    return whole and head == _head(np.frombuffer(table, _ROW), path.stat().st_size)


def _create(path: Path, paths: Sequence[str]) -> None:
    fixed, total = _layout(paths)
    for old in path.parent.glob(f".{path.name}.*"):  # of a process that was killed here
        old.unlink()
    _require_room(total, shutil.disk_usage(path.parent).free, "disk", str(path.parent), len(paths))
    with atomic_file(path) as file:
        reserve(file, total)
        file.write(fixed)


def _digest(paths: Sequence[str], backend: str) -> str:
    """Of all that the pixels depend on."""
    digest = hashlib.sha256(f"{backend} {cv2.__version__} {PIL.__version__}\n".encode())
    for path in paths:
        try:
            stat = os.stat(path)  # noqa: PTH116
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{path}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def _require_room(needed: int, free: int, kind: Kind, where: str, count: int) -> None:
    if needed > free * _MARGIN:
        other = "cache: disk" if kind == "ram" else "another cache_dir"
        raise UserError(
            f"cache: {kind}: {count:,} decoded images need {needed / 2**20:.1f} MiB, but of "
            f"{where} {free / 2**20:.1f} MiB are free (of which {_MARGIN:.0%} may be used); use "
            f"{other}, smaller images, or no cache"
        )


def _free_memory() -> int:
    """Bytes of memory that are free, also by the limit of the container."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        free = min(free, limit - used)
    return max(free, 0)
