"""The images of a list in tar files of equal length, with their index.

Read before: ../shards.py, which reads them.
"""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.data.image_list import read_image_list, some
from ppcls_lite.data.prepare.next_step import NextStep
from ppcls_lite.data.shards import INDEX, index_of
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError, joined
from ppcls_lite.system.files import disk_errors, whole_folder, write_bytes

_AHEAD = 64  # images that are read and shrunk before they are written


def prepare_shards(
    list_file: str, root: str, output: str, per_shard: int, size: int, quality: int, seed: int
) -> NextStep | None:
    """Write `output/shard-000000.tar`, ... and `shards.npz`; unreadable images are left out.

    The images are shuffled over the shards by `seed`. Those whose shorter edge is above `size`
    (0: none) are shrunk to it and become JPEGs of that `quality`; all others stay byte by byte.
    UserError for a list with mistakes, or a folder that holds something already.
    """
    if per_shard < 1:
        raise UserError(f"--per-shard is {per_shard}; expected 1 at least")
    if size < 0 or not 1 <= quality <= 100:
        raise UserError(f"--size is {size}, --quality {quality}; expected 0 or more, and 1 to 100")
    listed = read_image_list(list_file, root)
    if listed.problems:
        raise UserError(joined([f"{list_file}: mistakes:", *listed.problems], "\n  "))
    if not len(listed.paths):
        raise UserError(f"{list_file}: has no image")
    target = Path(output)
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{output}: holds something already; name a new folder")
    order = np.random.default_rng(seed).permutation(len(listed.labels)).tolist()
    bad: list[str] = []
    paths = [(listed.paths[place], listed.labels[place]) for place in order]
    with disk_errors(target), whole_folder(target) as folder:
        written = 0
        samples = _samples(paths, size, quality, bad)
        while group := list(itertools.islice(samples, per_shard)):
            path = folder / f"shard-{written // per_shard:06d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
                for number, (suffix, data, label) in enumerate(group, written):
                    _add(archive, f"{number:09d}{suffix}", data)
                    _add(archive, f"{number:09d}.cls", str(label).encode())
            written += len(group)
        if not written:
            raise UserError(f"{list_file}: no image can be read: {some(bad)}")
        write_bytes(folder / INDEX, index_of(sorted(folder.glob("*.tar"))).bytes())
    files = -(-written // per_shard)
    print(f"{written:,} images in {files:,} shards: {target}")
    if bad:
        print(f"left out, {len(bad):,} unreadable images: {some(bad)}")
    return None


def _samples(
    paths: Sequence[tuple[str, int]], size: int, quality: int, bad: list[str]
) -> Iterator[tuple[str, bytes, int]]:
    """Suffix, bytes and class of each image that can be read; `bad` gets what the others say."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), _AHEAD):
            part = paths[start : start + _AHEAD]
            found = pool.map(lambda item: _image(item[0], size, quality), part)
            for (_, label), content in zip(part, found):
                if isinstance(content, ImageError):
                    bad.append(str(content))
                else:
                    yield (*content, label)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without a date or an owner, so that the same images give the same files."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _image(path: str, size: int, quality: int) -> tuple[str, bytes] | ImageError:
    """Suffix and bytes of an image, shrunk if need be; or why it cannot be read."""
    try:
        data = read_file(path)
        pixels = decode_rgb(data, path)
    except ImageError as error:
        return error
    height, width = pixels.shape[:2]
    if not size or min(height, width) <= size:
        return os.path.splitext(path)[1].lower(), data  # noqa: PTH122 (a path of a list)
    factor = size / min(height, width)
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    shrunk = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR), options)
    return (".jpg", encoded.tobytes()) if done else ImageError(f"{path}: cannot be encoded")
