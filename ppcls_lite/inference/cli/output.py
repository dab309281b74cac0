"""Where predictions go: a table on the terminal, JSON lines or CSV in a file.

A result is a dict with `file` and either what the post-processing gives or `error`; the
post-processing says what the tables show of it. Read next: predict.py.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.origin import Origin, write_origin
from ppcls_lite.system.terminal import printable

if TYPE_CHECKING:
    from ppcls_lite.inference.postprocess.base import Postprocess, Result, Write

_FILE_WIDTH = 40
_BUFFER = 8192  # bytes that wait for being written at once


class ResultFile:
    """Writes results one by one, as JSON lines (`.jsonl`) or CSV (`.csv`), in UTF-8.

    JSON lines hold each result as it is; CSV has a line for each row of an image, numbered by
    `rank`, and an empty one for an image without rows. `append` goes on after what the file holds
    (resume.py looks at that first); else `origin` is noted beside the file. Another suffix, or a
    file that cannot be written, is a UserError; on a full disk the file ends with a whole result.
    """

    def __init__(
        self,
        path: str | Path,
        postprocess: Postprocess,
        append: bool = False,
        origin: Origin | None = None,
    ) -> None:
        self.path = Path(path)
        self._postprocess = postprocess
        self._csv = self.path.suffix.lower() == ".csv"
        if not self._csv and self.path.suffix.lower() != ".jsonl":
            raise UserError(f"--output {path}: expected a name that ends in .jsonl or .csv")
        self._waiting = bytearray()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not append:
                write_origin(self.path, origin)
            self._file = self.path.open("ab" if append else "wb", buffering=0)
            self._whole = os.fstat(self._file.fileno()).st_size  # bytes that end with a result
        except OSError as error:
            raise UserError(f"--output {path}: cannot be written: {error.strerror}") from error
        if self._csv and self._whole == 0:
            self._add(csv_text([csv_columns(postprocess)]).encode("utf-8"))

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._flush()
        finally:
            self._file.close()

    def write(self, result: Result) -> None:
        """Append one result."""
        if self._csv:
            self._add(_escaped(csv_text(_csv_rows(result, self._postprocess))))
        else:
            self._add(json_line(result))

    def _add(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        data, self._waiting = memoryview(bytes(self._waiting)), bytearray()
        try:
            while data:
                data = data[self._file.write(data) :]
            self._whole = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            with contextlib.suppress(OSError):  # a pipe
                self._file.truncate(self._whole)
            raise UserError(
                f"--output {self.path}: could not be written: {error.strerror}. What it holds is "
                "whole; make room and go on with --resume"
            ) from error


def writer(
    postprocess: Postprocess,
    labels: Sequence[str] | None,
    images: Sequence[Path],
    save: Sequence[str],
) -> AbstractContextManager[Write]:
    """What writes results as `--save` says: the name of a form, and what belongs to it."""
    form, *arguments = save
    if form not in postprocess.forms:
        kind, known = type(postprocess).__name__, ", ".join(postprocess.forms) or "none"
        raise UserError(f"--save {form}: no form for the answers of {kind}; it has: {known}")
    return postprocess.forms[form](labels, images, arguments)


def json_line(result: Result) -> bytes:
    """A result as a line of a JSON lines file."""
    return _escaped(json.dumps(result, ensure_ascii=False) + "\n")


def _escaped(text: str) -> bytes:
    """A file name that is no UTF-8 becomes an escape, which JSON reads back as it was."""
    return text.encode("utf-8", "backslashreplace")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def csv_columns(postprocess: Postprocess) -> list[str]:
    """The first line of a CSV file."""
    return ["file", "rank", *(column.name for column in postprocess.columns), "error"]


def table_head(postprocess: Postprocess) -> str:
    """The heading over the lines of `table_lines`."""
    titles = (f"{column.title:>{column.width}}" for column in postprocess.columns)
    return "  ".join([f"{'file':{_FILE_WIDTH}}", *titles])


def table_lines(result: Result, postprocess: Postprocess) -> Iterator[str]:
    """One line for each row of an image; the file's name only on the first."""
    name = printable(str(result["file"]))
    if len(name) > _FILE_WIDTH:
        name = "..." + name[3 - _FILE_WIDTH :]
    if "error" in result:
        yield f"{name:{_FILE_WIDTH}}  error: {printable(result['error'])}"
        return
    columns = postprocess.columns
    for row in postprocess.rows(result) or [()]:
        cells = (printable(column.text(value)) for column, value in zip(columns, row))
        yield "  ".join([f"{name:{_FILE_WIDTH}}", *cells]).rstrip()
        name = ""


def _csv_rows(result: Result, postprocess: Postprocess) -> Iterator[list[Any]]:
    empty = [""] * len(postprocess.columns)
    if "error" in result:
        yield [result["file"], "", *empty, result["error"]]
        return
    for rank, row in enumerate(postprocess.rows(result) or [empty], start=1):
        yield [result["file"], rank, *row, ""]
