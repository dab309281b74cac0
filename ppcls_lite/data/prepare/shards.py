"""The images of a list in tar files of equal length, with their index.

Read before: ../shards.py, which reads them.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppcls_lite.data.image_list import some
from ppcls_lite.data.prepare.next_step import NextStep
from ppcls_lite.data.prepare.shrink import listed_images, say_left_out, shrunk
from ppcls_lite.data.shards import INDEX, index_of
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.system.files import disk_errors, whole_folder, write_bytes


def prepare_shards(
    list_file: str,
    root: str,
    output: str | Path,
    per_shard: int,
    size: int,
    quality: int,
    seed: int,
) -> NextStep | None:
    """Write `output/shard-000000.tar`, ... and `shards.npz`; unreadable images are left out.

    The images are shuffled over the shards by `seed`. Those whose shorter edge is above `size`
    (0: none) are shrunk to it and become JPEGs of that `quality`; all others stay byte by byte.
    UserError for a list with mistakes, or a folder that holds something already.
    """
    if per_shard < 1:
        raise UserError(f"--per-shard is {per_shard}; expected 1 at least")
    listed = listed_images(list_file, root, output, size, quality)
    target = Path(output)
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
    say_left_out(bad)
    return None


def _samples(
    listed: Sequence[tuple[str, int]], size: int, quality: int, bad: list[str]
) -> Iterator[tuple[str, bytes, int]]:
    """Suffix, bytes and class of each image that can be read; `bad` gets what the others say."""
    paths = [path for path, _ in listed]
    for (_, label), content in zip(listed, shrunk(paths, size, quality)):
        if isinstance(content, ImageError):
            bad.append(str(content))
        else:
            yield (*content, label)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without a date or an owner, so that the same images give the same files."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
