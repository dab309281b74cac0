"""Where predictions go: a table on the terminal, JSON lines or CSV in a file.

A result is a dict with `file` and either what the post-processing gives or `error`; the
post-processing says what the tables show of it. Read next: predict.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ppcls_lite.errors import UserError

if TYPE_CHECKING:
    from ppcls_lite.inference.postprocess.base import Postprocess, Result

_FILE_WIDTH = 40


class ResultFile:
    """Writes results one by one, as JSON lines (`.jsonl`) or CSV (`.csv`), in UTF-8.

    JSON lines hold each result as it is; CSV has a line for each row of an image, numbered by
    `rank`, and an empty one for an image without rows. `append` goes on after what the file holds
    (resume.py looks at that first). Another suffix, or a file that cannot be written, is a
    UserError.
    """

    def __init__(self, path: str | Path, postprocess: Postprocess, append: bool = False) -> None:
        self.path = Path(path)
        self._postprocess = postprocess
        suffix = self.path.suffix.lower()
        if suffix not in (".jsonl", ".csv"):
            raise UserError(f"--output {path}: expected a name that ends in .jsonl or .csv")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A file name that is no UTF-8 becomes an escape, which JSON reads back as it was.
            self._file: TextIO = self.path.open(
                "a" if append else "w", encoding="utf-8", newline="", errors="backslashreplace"
            )
        except OSError as error:
            raise UserError(f"--output {path}: cannot be written: {error.strerror}") from error
        self._csv = csv.writer(self._file) if suffix == ".csv" else None
        if self._csv and self._file.tell() == 0:
            self._csv.writerow(csv_columns(postprocess))

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, result: Result) -> None:
        """Append one result."""
        if self._csv:
            self._csv.writerows(_csv_rows(result, self._postprocess))
        else:
            self._file.write(json.dumps(result, ensure_ascii=False) + "\n")


def csv_columns(postprocess: Postprocess) -> list[str]:
    """The first line of a CSV file."""
    return ["file", "rank", *(column.name for column in postprocess.columns), "error"]


def table_head(postprocess: Postprocess) -> str:
    """The heading over the lines of `table_lines`."""
    titles = (f"{column.title:>{column.width}}" for column in postprocess.columns)
    return "  ".join([f"{'file':{_FILE_WIDTH}}", *titles])


def table_lines(result: Result, postprocess: Postprocess) -> Iterator[str]:
    """One line for each row of an image; the file's name only on the first."""
    name = str(result["file"])
    if len(name) > _FILE_WIDTH:
        name = "..." + name[3 - _FILE_WIDTH :]
    if "error" in result:
        yield f"{name:{_FILE_WIDTH}}  error: {result['error']}"
        return
    columns = postprocess.columns
    for row in postprocess.rows(result) or [()]:
        cells = (column.text(value) for column, value in zip(columns, row))
        yield "  ".join([f"{name:{_FILE_WIDTH}}", *cells]).rstrip()
        name = ""


def _csv_rows(result: Result, postprocess: Postprocess) -> Iterator[list[Any]]:
    empty = [""] * len(postprocess.columns)
    if "error" in result:
        yield [result["file"], "", *empty, result["error"]]
        return
    for rank, row in enumerate(postprocess.rows(result) or [empty], start=1):
        yield [result["file"], rank, *row, ""]
