"""What a search has found out, line by line, so that an interrupted one loses nothing.

`journal.jsonl` has one JSON object a line: what was measured (`kind`), of which candidate (`key`),
and the value. A search that is started again in its folder takes what is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.search.space import Candidate, Scored, digest

NAME = "journal.jsonl"


def read(path: Path) -> tuple[dict[tuple[str, str], Any], str]:
    """The values of a journal by kind and key, and the last line, if that is cut off.

    Raises UserError for a line that is no entry.
    """
    values = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = "" if not lines or lines[-1].endswith("\n") else lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            values[entry["kind"], entry["key"]] = entry["value"]
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"{path}, line {number}: is no entry of a search; remove the line, or give "
                "another --output"
            ) from None
    return values, cut


def scored(values: Mapping[tuple[str, str], Any]) -> list[Scored]:
    """The candidates of a journal whose scores are known."""
    named: dict[str, Candidate] = {}
    for (kind, key), value in values.items():
        if kind == "whole":
            named[key] = value["candidate"]
        elif kind == "generation":
            named |= {digest(candidate): candidate for candidate in value}
    scores = {key: value for (kind, key), value in values.items() if kind == "score"}
    return [(named[key], score) for key, score in scores.items() if key in named]


class Journal:
    """Values by kind and key, kept in `folder`.

    facts: what the search is made of; a folder of another search is refused.
    writes: whether this process keeps what is put in (rank 0).
    """

    def __init__(self, folder: Path, facts: dict[str, Any], writes: bool = True) -> None:
        self.path, self._writes = folder / NAME, writes
        self._values: dict[tuple[str, str], Any] = {}
        if self.path.exists():
            self._read()
        kept = self._values.get(("search", ""))
        if kept is None:
            self.put("search", "", facts)
        elif different := [k for k in {**kept, **facts} if kept.get(k) != facts.get(k)]:
            named = "; ".join(f"{k}: {kept.get(k)} there, {facts.get(k)} now" for k in different)
            raise UserError(
                f"{folder}: holds a search for something else ({named}); give another --output, or "
                "the same options to go on with it"
            )

    def _read(self) -> None:
        self._values, cut = read(self.path)
        if self._writes and cut:
            os.truncate(self.path, self.path.stat().st_size - len(cut.encode()))

    def get(self, kind: str, key: str) -> Any:
        """The value, or None."""
        return self._values.get((kind, key))

    def all(self, kind: str) -> dict[str, Any]:
        """Every value of a kind, by key, in the order of their coming."""
        return {key: value for (found, key), value in self._values.items() if found == kind}

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a value, plain data, at once."""
        self._values[kind, key] = value
        if self._writes:
            line = json.dumps({"kind": kind, "key": key, "value": value})
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise UserError(
                    f"{self.path} cannot be written: {error.strerror or error}; free disk space "
                    "and start the same command again"
                ) from None
