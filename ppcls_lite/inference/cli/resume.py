"""What an interrupted `predict` has already written, so that it can go on from there.

A run that was killed may leave a torn end: half a line of JSON, or some of the rows of an image in
CSV. It is removed, and that image is done again. Read next: output.py, predict.py.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_text


@dataclass
class Kept:
    """The images in a result file."""

    files: Counter[str] = field(default_factory=Counter)  # how often each has a result
    bad: list[tuple[str, str]] = field(default_factory=list)  # (file, error): unreadable

    def add(self, file: str, error: str | None) -> None:
        """Count one result."""
        self.files[_written(file)] += 1
        if error:
            self.bad.append((file, error))

    def others(self, images: Iterable[Path]) -> list[Path]:
        """The images that have no result yet, in order."""
        left = self.files.copy()
        rest = []
        for image in images:
            name = _written(os.fspath(image))
            if left[name] > 0:
                left[name] -= 1
            else:
                rest.append(image)
        return rest


def _written(file: str) -> str:
    """A file's name as both formats hold it: where it is no UTF-8, with an escape."""
    return file.encode("utf-8", "backslashreplace").decode("utf-8")


def keep(path: Path, columns: Sequence[str]) -> Kept:
    """Read a `.jsonl` or `.csv` of results and cut off a torn end; a missing file holds nothing.

    `columns` are those that a CSV file has to have. A file that cannot be read or holds something
    else than results is a UserError.
    """
    if not path.exists():
        return Kept()
    try:
        return _keep_rows(path, columns) if path.suffix.lower() == ".csv" else _keep_lines(path)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be read: {error.strerror}") from error


def _keep_lines(path: Path) -> Kept:
    kept, end, torn = Kept(), 0, ""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if torn:
                raise _foreign(path, torn)
            found = _parse(line)
            if found is None:  # allowed at the very end only
                torn = f"line {number}"
                continue
            kept.add(found["file"], found.get("error"))
            end += len(line)
    if torn and end == 0:
        raise _foreign(path, torn)  # rather not empty a file that has nothing to do with us
    if torn:
        os.truncate(path, end)
    return kept


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("file"), str) else None


def _keep_rows(path: Path, columns: Sequence[str]) -> Kept:
    """The last image's rows may be incomplete, so they go; the others are written anew."""
    kept = Kept()
    with (
        path.open(encoding="utf-8", errors="replace", newline="") as old,
        atomic_text(path, newline="") as new,
    ):
        reader = csv.reader(old)
        header = next(reader, list(columns))
        if header != list(columns):
            raise _foreign(path, "line 1")
        writer = csv.writer(new)
        writer.writerow(header)
        for rows in _whole(reader, len(columns)):
            writer.writerows(rows)
            kept.add(rows[0][0], rows[0][-1])
    return kept


def _whole(reader: Iterable[list[str]], width: int) -> Iterator[list[list[str]]]:
    """The rows of each image but the last; a whole one has `width` cells."""
    rows: list[list[str]] = []
    for row in reader:
        first = len(row) == width and row[1] in ("", "1")  # shorter: torn
        if first and rows:
            yield rows
            rows = []
        rows.append(row)


def _foreign(path: Path, where: str) -> UserError:
    return UserError(
        f"--output {path}: {where} is no result of this command; name another file, or leave "
        "--resume out to overwrite this one"
    )
