"""A list of millions of images in blocks, each of which becomes one file of answers.

A block is some lines of the list. Its answers are written to a temporary name and renamed, so
`part-000017.jsonl` is there as a whole or not at all, and one that is there is never made again. No
more is remembered than these files: any process of any machine may do any block at any time, and
where two do the same one, as after a machine that was lost comes back, both write the same file.
Read next: predict_many.py.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.output import json_line
from ppcls_lite.inference.inputs import images_of
from ppcls_lite.system.files import TEMPORARY, write_bytes

if TYPE_CHECKING:
    from ppcls_lite.inference.predictor import Predictor

_CHUNK = 1 << 24  # bytes of a list that are looked at together


class Block(NamedTuple):
    """Some lines of a list: its bytes from `start` to `end`."""

    number: int
    start: int
    end: int


class Done(NamedTuple):
    """What is in the file of a block: `images` answers, of which `unreadable` are errors."""

    images: int
    unreadable: int
    example: str  # of these, `file: error`; empty: none
    made: bool  # by this run; else it was there before


@dataclass(frozen=True)
class Job:
    """What all blocks have in common; every machine finds it under the same paths."""

    source: str  # the list
    output: str  # the folder of answers
    place: str  # the folder that relative paths start from
    options: str  # the arguments of Predictor, as JSON
    batch_size: int

    def part(self, number: int) -> Path:
        """The file of a block."""
        return Path(self.place, self.output, f"part-{number:06d}.jsonl")

    def clear(self) -> None:
        """Remove what processes that were killed have left unfinished."""
        for path in Path(self.place, self.output).glob(TEMPORARY):
            path.unlink(missing_ok=True)


def cut_list(source: Path, lines: int, option: str) -> tuple[list[Block], str]:
    """A list's blocks of `lines` lines each, and its SHA-256; it is never in memory as a whole.

    UserError, with the name of the `option`, for what is no list.
    """
    digest, text = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    starts, newlines, size = [0], 0, 0
    try:
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                text.decode(chunk)
                ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + 1
                starts += (size + ends[(-newlines - 1) % lines :: lines]).tolist()
                newlines += len(ends)
                size += len(chunk)
            text.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{option} {source}: not a UTF-8 text file: {error.reason}") from None
    except OSError as error:
        wanted = "expected a text file with one path per line"
        raise UserError(f"{option} {source}: {error.strerror}; {wanted}") from error
    if not size:
        raise UserError(f"{option} {source}: the list is empty; expected one path per line")
    if starts[-1] == size:
        starts.pop()
    ends = [*starts[1:], size]
    return [Block(*row) for row in zip(range(len(starts)), starts, ends)], digest.hexdigest()


def predict_block(job: Job, block: Block) -> Done:
    """Write a block's file unless it is there, and say what it holds.

    UserError where it cannot be written, or is there and has other lines than the list.
    """
    os.chdir(job.place)  # relative paths then lead where they led for who wrote them
    images, part = _images(job, block), job.part(block.number)
    made = not part.exists()
    if made:
        results = _predictor(job.options).stream(images, job.batch_size, keep_going=True)
        write_bytes(part, b"".join(map(json_line, results)))
    *lines, _ = part.read_bytes().split(b"\n")
    if len(lines) != len(images):
        raise UserError(
            f"{part}: holds {len(lines)} answers to {len(images)} lines of {job.source}; remove it "
            "to have it made again"
        )
    errors = [found for found in map(_error, lines) if found]
    return Done(len(lines), len(errors), errors[0] if errors else "", made)


def _images(job: Job, block: Block) -> list[Path]:
    source = Path(job.source)
    try:
        with source.open("rb") as file:
            file.seek(block.start)
            data = file.read(block.end - block.start)
    except OSError as error:
        raise UserError(
            f"{source.absolute()}: {error.strerror}; every machine needs the list, the images, the "
            "network and the folder of answers under the same paths"
        ) from error
    return [path for path, _ in images_of(data.decode("utf-8-sig"), source.parent)]


@functools.cache
def _predictor(options: str) -> Predictor:
    """One for all blocks that this process does."""
    import cv2

    from ppcls_lite.inference.predictor import Predictor

    cv2.setNumThreads(0)  # the processes are the parallelism
    return Predictor(**json.loads(options))


def _error(line: bytes) -> str | None:
    """`file: error` of an answer, if it is one."""
    if b'"error": ' not in line:
        return None
    answer: dict[str, Any] = json.loads(line)
    return f"{answer['file']}: {answer['error']}" if "error" in answer else None
