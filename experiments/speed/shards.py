"""What shards and shrunk images bring: images a second of one core, and of a cold disk.

    python -m experiments.speed.shards
    python -m experiments.speed.shards --images 8000 --cold    # only the reading

The training chain of the ImageNet recipes (decode, random crop 224, flip, normalise), without
worker processes, from files, from shards that hold the same bytes, from shards whose images
`prepare shards --size` has shrunk, and from files that `prepare shrink` has shrunk once their
pixels are in a `cache: disk`; `reduced` decodes at a fraction of the size where that is enough
(docs/performance.md). Contenders take turns, and a rate is by processor time. `--cold` reads the
bytes alone, by the clock, after the pages of the files were dropped: files in a random order, as an
epoch has them, and shards as their sampler has them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from experiments.speed.data import find, generate, training_set
from ppcls_lite.config.check import build_list
from ppcls_lite.data.cache import on_disk, size_of
from ppcls_lite.data.datasets import LabeledDataset
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.prepare.shards import prepare_shards
from ppcls_lite.data.prepare.shrink import prepare_shrunk
from ppcls_lite.data.samplers import BatchSampler, DistributedBatchSampler
from ppcls_lite.data.shards import ShardDataset, ShardSampler
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system.files import sync
from ppcls_lite.system.machine import cpu_model
from ppcls_lite.system.timing import in_turns, median_ratio

SIZES = (512, 256, 224, 160)  # shorter edges
BATCH = 64
PER_SHARD = 500


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = options.add_argument
    add("--data", metavar="DIR|LIST", help="JPEGs; default: generated ones")
    add("--images", type=positive, default=256, help="images a round (%(default)s)")
    add("--rounds", type=positive, default=7, help="(%(default)s)")
    add("--cold", action="store_true", help="only read, from a cold disk")
    add("--folder", metavar="DIR", help="on the disk that is to be read from (the system's own)")
    args = options.parse_args(argv)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        source = write_list(folder, args.data, args.images)
        print(f"{cpu_model()}, one core; {args.images} images, {args.rounds} rounds, medians")
        if args.cold:
            compare_cold(folder, source, args.rounds)
        else:
            compare(folder, source, args.rounds)
    return 0


def write_list(folder: Path, data: str | None, count: int) -> Path:
    """`count` files of their own, copies of those that were found or generated; their list."""
    (folder / "files").mkdir()
    found = find(data) if data else generate(folder / "made", min(count, 64))
    for number in range(count):
        shutil.copyfile(found[number % len(found)], folder / "files" / f"{number}.jpg")
    source = folder / "list.txt"
    source.write_text("".join(f"{number}.jpg 0\n" for number in range(count)))
    return source


def make_shards(folder: Path, source: Path, size: int) -> Path:
    """The list's images as shards, shrunk to `size` (0: as they are)."""
    target = folder / f"shards-{size}"
    images = str(source.parent / "files")
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_shards(str(source), images, str(target), PER_SHARD, size, 90, 0)
    return target


def compare(folder: Path, source: Path, rounds: int) -> None:
    """Print images a second of each form of the images, decoded fully and reduced."""
    files = [str(path) for path in sorted((folder / "files").iterdir())]
    places = {"shards, the same bytes": make_shards(folder, source, 0)}
    places |= {f"shards, --size {size}": make_shards(folder, source, size) for size in SIZES}
    contenders: dict[tuple[str, str], Callable[[], float]] = {}
    for word, reduced in {"full": False, "reduced": True}.items():
        data = training_set(files, reduced=reduced)
        contenders["files", word] = epochs(data, DistributedBatchSampler(BATCH))
        for name, place in places.items():
            ops = [{"DecodeImage": {"reduced": reduced}}, {"RandCropImage": {"size": 224}}]
            ops += [{"RandFlipImage": {"flip_code": 1}}, {"NormalizeImage": {"order": ""}}]
            shards = ShardDataset(str(place), build_list(ops, "transform"))
            contenders[name, word] = epochs(shards, ShardSampler(BATCH))
    cached = {f"files, --size {size}, cache: disk": shrink(folder, source, size) for size in SIZES}
    for name, data in cached.items():
        contenders[name, "full"] = epochs(data, DistributedBatchSampler(BATCH))
    bytes_of = {name: bytes_in(place) / len(files) for name, place in places.items()}
    bytes_of["files"] = sum(os.path.getsize(path) for path in files) / len(files)  # noqa: PTH202
    found = in_turns(contenders, rounds)
    rates = {key: len(files) / statistics.median(times) for key, times in found.items()}
    print("| | KB an image | images/s | with reduced decoding |\n|---|---:|---:|---:|")
    for name, data in cached.items():
        bytes_of[name] = size_of(data.paths) / len(files)
    for name in ("files", *places, *cached):
        full, reduced = (
            f"{rates[name, word]:.0f}" if (name, word) in rates else ""
            for word in ("full", "reduced")
        )
        print(f"| {name} | {bytes_of[name] / 1e3:.0f} | {full} | {reduced} |")


def shrink(folder: Path, source: Path, size: int) -> LabeledDataset:
    """The list's images as files shrunk to `size`, with a cache of their pixels on the disk."""
    target = folder / f"small-{size}"
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_shrunk(str(source), str(source.parent / "files"), str(target), size, 90)
    data = training_set([str(path) for path in sorted(target.glob("*.jpg"))])
    data.keep_decoded(on_disk(data.paths, folder / "cache", f"small{size}", "cv2"))
    return data


def bytes_in(place: Path) -> int:
    """Of all shards of a folder."""
    return sum(path.stat().st_size for path in place.glob("*.tar"))


def epochs(dataset: LabeledDataset, sampler: BatchSampler) -> Callable[[], float]:
    """A call that goes through the next epoch and returns its processor seconds."""
    sampler.see(dataset)
    loader = Loader(dataset, sampler.bind(len(dataset)), num_workers=0)
    numbers = itertools.count(1)

    def one() -> float:
        start = time.process_time()
        for _ in loader.epoch(next(numbers)):
            pass
        return time.process_time() - start

    return one


def compare_cold(folder: Path, source: Path, rounds: int) -> None:
    """Print how many images a second are read from files and from shards whose pages are gone."""
    paths = sorted((folder / "files").iterdir())
    data = training_set([str(path) for path in paths])
    place = make_shards(folder, source, 0)
    shards = ShardDataset(str(place), build_list([{"DecodeImage": {}}], "transform"))
    files, mixed = DistributedBatchSampler(BATCH, shuffle=True), ShardSampler(BATCH, shuffle=True)
    found = in_turns(
        {
            "files": reading(data, files, lambda i: paths[i].read_bytes(), paths),
            "shards": reading(shards, mixed, shards._image, sorted(place.glob("*.tar"))),
        },
        rounds,
    )
    for name, times in found.items():
        print(f"{name}: {len(paths) / statistics.median(times):.0f} images/s")
    print(f"shards against files: {median_ratio(found['files'], found['shards']):.2f} times")


def reading(
    dataset: LabeledDataset,
    sampler: BatchSampler,
    read: Callable[[int], bytes],
    files: list[Path],
) -> Callable[[], float]:
    """A call that reads the next epoch's bytes, and returns the seconds by the clock.

    Before that it drops the pages of `files`.
    """
    sampler.see(dataset)
    sampler.bind(len(dataset))
    numbers = itertools.count(1)

    def one() -> float:
        for path in files:
            drop(path)
        start = time.perf_counter()
        for _, batch in sampler.numbered(next(numbers)):
            for key in batch:
                read(key.index)
        return time.perf_counter() - start

    return one


def drop(path: Path) -> None:
    """Have the system forget what it keeps in memory of a file."""
    with path.open("rb") as file:
        sync(file)  # pages that are not on the disk yet would stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
