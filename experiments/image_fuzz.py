"""Decodes thousands of damaged image files by both backends: each gives pixels or an ImageError.

    python -m experiments.image_fuzz --count 20000 --seed 0

The files are those of image_kinds.py and larger ones, with bytes changed, cut, repeated, or taken
from another file, and with other numbers in a header whose check sum then fits again. Whatever is
decoded also goes through a small chain of transforms. Ends with 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from experiments.image_kinds import all_kinds
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.crop import CropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.errors import ImageError

BACKENDS = ("cv2", "pil")
SLOW = 20.0  # seconds that no file may take: it has at most DecodeImage's 100 million pixels
_NUMBERS = (0, 1, 2, 3, 255, 256, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Found:
    """How many files ended how, and what should not have happened."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def main(argv: Sequence[str]) -> int:
    """Run the command; 1 if a file raised anything but an ImageError, or took too long."""
    options = argparse.ArgumentParser(prog="image_fuzz", description=__doc__)
    options.add_argument("--count", type=int, default=20_000, help="of files (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the damage (%(default)s)")
    args = options.parse_args(argv)
    found = fuzz(args.count, args.seed)
    print(f"{args.count:,} files by {len(BACKENDS)} backends, slowest {found.slowest:.2f} s")
    for outcome, times in found.outcomes.most_common():
        print(f"{times:8,}  {outcome}")
    print("\n".join(found.faults[:20]) or "nothing but pixels and ImageErrors")
    return 1 if found.faults else 0


def fuzz(count: int, seed: int) -> Found:
    """Decode `count` damaged files; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    sources = [kind.data for kind in all_kinds() if kind.expected is not None]
    sources += _photographs(rng) * 4
    chains = {
        backend: Compose([DecodeImage(backend=backend), ResizeImage(resize_short=24), CropImage(8)])
        for backend in BACKENDS
    }
    found = Found()
    for number in range(count):
        data = sources[int(rng.integers(len(sources)))]
        for _ in range(int(rng.integers(1, 4))):
            data = _damaged(data, sources, rng)
        for backend, chain in chains.items():
            start = time.perf_counter()
            try:
                shape = chain({"image": data, "path": "x"}, None)["image"].shape
                outcome = "pixels" if shape == (3, 8, 8) else f"shape {shape}"
            except ImageError as error:
                outcome = re.sub(r"[0-9.]+", "N", re.split(r"[;(]", str(error))[0])[:50]
            except Exception:
                outcome = traceback.format_exc(limit=-1).strip().splitlines()[-1]
                found.faults.append(f"file {number}, {backend}: {outcome}")
            seconds = time.perf_counter() - start
            found.slowest = max(found.slowest, seconds)
            if seconds > SLOW:
                found.faults.append(f"file {number}, {backend}: {seconds:.1f} s, {outcome}")
            found.outcomes[outcome] += 1
    return found


def _photographs(rng: np.random.Generator) -> list[bytes]:
    """Larger files, in which damage meets compressed pixels rather than headers."""
    small = rng.integers(0, 256, (6, 9, 3), np.uint8)
    photo = cv2.resize(small, (90, 60), interpolation=cv2.INTER_CUBIC)
    kinds = {f".{kind}": [] for kind in ("jpg", "webp", "bmp", "gif", "tiff", "png")}
    kinds[".jpg"] = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    return [cv2.imencode(suffix, photo, options)[1].tobytes() for suffix, options in kinds.items()]


def _damaged(data: bytes, sources: list[bytes], rng: np.random.Generator) -> bytes:
    """One change to a file."""
    damaged = bytearray(data)
    size = max(len(data), 1)
    match rng.integers(7):
        case 0:  # bytes
            for place in rng.integers(size, size=int(rng.integers(1, 9))):
                damaged[place : place + 1] = rng.bytes(1)
        case 1:  # a bit of the header
            place = int(rng.integers(min(size, 64)))
            damaged[place : place + 1] = bytes(
                [data[place] ^ 1 << int(rng.integers(8))] if data else b""
            )
        case 2:  # the end is missing
            del damaged[int(rng.integers(size)) :]
        case 3:  # a piece twice, or missing
            start, length = int(rng.integers(size)), int(rng.integers(1, 64))
            piece = damaged[start : start + length]
            damaged[start : start + length] = piece * int(rng.integers(3))
        case 4:  # the rest of another file
            other = sources[int(rng.integers(len(sources)))]
            place = int(rng.integers(size))
            damaged[place:] = other[place:]
        case 5:  # a number
            place, form = int(rng.integers(min(size, 256))), rng.choice(["<H", ">H", "<I", ">I"])
            number = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
            packed = struct.pack(form, number % (2**16 if form[1] == "H" else 2**32))
            damaged[place : place + len(packed)] = packed
        case _:  # random bytes in the middle
            place = int(rng.integers(size))
            damaged[place:place] = rng.bytes(int(rng.integers(1, 32)))
    return _with_check_sums(bytes(damaged)) if rng.random() < 0.7 else bytes(damaged)


def _with_check_sums(data: bytes) -> bytes:
    """A PNG whose check sums fit again, so that more than those is looked at."""
    if not data.startswith(_PNG):
        return data
    fixed, place = bytearray(data), len(_PNG)
    while place + 12 <= len(data):
        end = place + 8 + struct.unpack_from(">I", data, place)[0]
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    sys.exit(main(sys.argv[1:]))
