"""Where predictions go: a table on the terminal, JSON lines or CSV in a file.

A result is a dict with `file` and either `class_ids`, `scores`, `label_names` (and whatever else
the post-processing gives) or `error`. Read next: predict_cli.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ppcls_lite.errors import UserError

Result = dict[str, Any]
CSV_COLUMNS = ("file", "rank", "class_id", "score", "label_name", "error")
_FILE_WIDTH = 40


class ResultFile:
    """Writes results one by one, as JSON lines (`.jsonl`) or CSV (`.csv`), in UTF-8.

    JSON lines hold each result as it is; CSV has one row per class of an image, the best first
    (attributes, which are no classes, stand as JSON in the column `label_name`).
    Results are on disk when the `with` block ends, or up to the last full buffer if it is killed.
    `append` goes on after what the file holds (resume.py looks at that first).

    Raises:
        UserError: another suffix, or the file cannot be written.
    """

    def __init__(self, path: str | Path, append: bool = False) -> None:
        self.path = Path(path)
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
        self._csv = csv.DictWriter(self._file, CSV_COLUMNS) if suffix == ".csv" else None
        if self._csv and self._file.tell() == 0:
            self._csv.writeheader()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, result: Result) -> None:
        """Append one result."""
        if self._csv:
            self._csv.writerows(_csv_rows(result))
        else:
            self._file.write(json.dumps(result, ensure_ascii=False) + "\n")


def table_head() -> str:
    """The heading over the lines of `table_lines`."""
    return f"{'file':{_FILE_WIDTH}}  {'class':>6}  {'score':>6}  label"


def table_lines(result: Result) -> Iterator[str]:
    """One line per class of an image, the best first; the file's name only on the first."""
    name = str(result["file"])
    if len(name) > _FILE_WIDTH:
        name = "..." + name[3 - _FILE_WIDTH :]
    if "error" in result:
        yield f"{name:{_FILE_WIDTH}}  error: {result['error']}"
        return
    for rank, (class_id, score, label) in enumerate(_classes(result)):
        first = name if rank == 0 else ""
        number = score if score == "" else f"{score:.4f}"
        yield f"{first:{_FILE_WIDTH}}  {class_id:>6}  {number:>6}  {label}".rstrip()


def _classes(result: Result) -> list[tuple[int | str, float | str, str]]:
    """(id, score, label) per class; one row of text alone where there is no such thing."""
    if "class_ids" not in result:  # attributes, raw scores
        rest = {key: value for key, value in result.items() if key != "file"}
        return [("", "", json.dumps(rest, ensure_ascii=False))]
    ids, scores = result["class_ids"], result["scores"]
    labels = result["label_names"] or [""] * len(ids)
    return list(zip(ids, scores, labels, strict=True)) or [("", "", "(no class)")]


def _csv_rows(result: Result) -> Iterator[dict[str, Any]]:
    if "error" in result:
        yield {"file": result["file"], "error": result["error"]}
        return
    for rank, (class_id, score, label) in enumerate(_classes(result), start=1):
        row = (result["file"], rank, class_id, score, label)
        yield dict(zip(CSV_COLUMNS, row))
