"""Image lists: text files with one image a line, its path and its label, as in PaddleClas.

The label is what follows the *last* delimiter, so that paths may hold spaces. UTF-8, with or
without a byte order mark; blank lines and CRLF ends do no harm. Mistakes are collected, not raised:
a user wants to see all of them. Read next: datasets.py, scan.py.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config.file import is_file, is_folder
from ppcls_lite.errors import UserError, cut, shown

_NO_CSV = "a list is no CSV file: set the data set's `delimiter`, and write paths without quotes"
SHOWN = 5  # mistakes of one kind that are shown in full


class PathList(Sequence[str]):
    """Many paths in two flat buffers instead of one string object each.

    ImageNet's take 70 MB this way, and worker processes share them with their parent: reading a
    Python string changes its reference count and so copies its memory page into every worker.
    """

    def __init__(self, paths: Iterable[str], root: str = "") -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.root = os.path.normpath(root) if root else root
        self._ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # resolves -1, raises IndexError
        return self._path(self._ends[index - 1] if index else 0, self._ends[index])

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends.tolist():
            yield self._path(start, end)
            start = end

    def _path(self, start: int, end: int) -> str:
        name = os.fsdecode(self._bytes[start:end])
        return os.path.join(self.root, name)  # noqa: PTH118 (ten times as fast as Path)


@dataclass
class ImageList:
    """A list file as read: the lines that are right, and what is wrong with the others."""

    file: str
    paths: PathList
    labels: list[Any]
    lines: np.ndarray  # (len(paths),) the line number of each, from 1
    problems: list[str] = field(default_factory=list)


def _class_id(text: str) -> int:
    """A label's number; ValueError for what is none, or too large for the arrays it goes into."""
    number = text.strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", number):
        raise ValueError(f"expected a whole number as the label, found {shown(text)}")
    return int(number)


def read_image_list(
    file: str,
    root: str,
    delimiter: str | None = None,
    parse_label: Callable[[str], Any] | None = _class_id,
) -> ImageList:
    """Read a list file; relative paths start from the folder `root`.

    `delimiter` None is the last space or tab. `parse_label` turns the label's text into a value or
    raises ValueError with what was expected; None: a line is a path alone. Raises UserError where
    the file or the root does not exist, or the file is not UTF-8.
    """
    if delimiter == "\\t":  # '\\t' in single quotes reaches us as two characters
        delimiter = "\t"
    names, labels, lines, bad = [], [], [], []
    numbered = read_lines(file)
    require_folder(root)
    for number, line in numbered:
        try:
            name, label = _split(line, delimiter, parse_label)
        except ValueError as error:
            bad.append(f"{file}:{number}: {error}")
            continue
        names.append(name)
        labels.append(label)
        lines.append(number)
    problems = bad[:SHOWN]
    if len(bad) > SHOWN:
        problems.append(f"{file}: {len(bad) - SHOWN:,} more malformed lines")
    if not numbered:
        problems.append(f"{file}: the list is empty")
    return ImageList(file, PathList(names, root), labels, np.array(lines, np.int64), problems)


def some(names: Sequence[Any] | np.ndarray) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def read_lines(file: str) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, stripped, with their numbers from 1.

    Raises UserError where the file does not exist or is not UTF-8.
    """
    if not is_file(file):
        raise UserError(
            f"there is no file {shown(file)} (looked for {cut(str(Path(file).absolute()), 500)}); "
            f"{_how_to_prepare(file)}"
        )
    # Not splitlines(): it would also split at rare characters that a file name may hold.
    stripped = (line.strip() for line in read_text(file).split("\n"))
    return [(number, line) for number, line in enumerate(stripped, 1) if line]


def read_text(file: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8; the message says what else it may be.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; change its rights") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise UserError(
            f"{file}: expected UTF-8 text, found UTF-16, as Windows calls Unicode, or no text at "
            "all; save the file as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line}: not UTF-8 text; save the file as UTF-8, for example with "
            "`iconv -f GB18030 -t UTF-8`"
        ) from error


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a list that `read_lines` gives back; a name that begins with a blank gets a `./`.

    Raises:
        UserError: a line that a list cannot hold, with a line break or not UTF-8.
    """
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for line in lines:
            if "\n" in line or not _is_utf8(line):
                raise UserError(
                    f"{file}: {line!r}: a list cannot hold the name, which has a line break or is "
                    "not UTF-8; rename the file, or train from the folders (FolderDataset)"
                )
            stream.write(f"{'./' if line[:1].isspace() else ''}{line}\n")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_folder(root: str) -> None:
    """Raise UserError with the place that was looked at if `root` is not a folder."""
    if not is_folder(root):
        place = cut(str(Path(root).absolute()), 500)
        raise UserError(
            f"there is no image folder {shown(root)} (looked for {place}); {_how_to_prepare(root)}"
        )


def _split(
    line: str, delimiter: str | None, parse_label: Callable[[str], Any] | None
) -> tuple[str, Any]:
    """Path and label of a line; ValueError with what was expected."""
    if parse_label is None:
        return (line if delimiter is None else line.split(delimiter)[0].strip()), None
    name, *rest = line.rsplit(delimiter, 1)
    if line.startswith('"') and '"' in line[1:]:
        raise ValueError(f"expected a path without quotes, found {shown(line)}; {_NO_CSV}")
    if not rest or not name.strip() or (delimiter is None and name.rstrip().endswith((",", ";"))):
        sign = "a space" if delimiter in (None, " ") else repr(delimiter)
        hint = f"; {_NO_CSV}" if delimiter is None and ("," in line or ";" in line) else ""
        raise ValueError(f"expected a path, {sign} and a label, found {shown(line)}{hint}")
    try:
        return name.strip(), parse_label(rest[0])
    except ValueError as error:
        raise ValueError(f"{error} in {shown(line)}") from None


def _how_to_prepare(path: str) -> str:
    """What to do about a missing list or folder, by the data set that its path names."""
    if "ILSVRC2012" in path:
        return (
            "get ImageNet-1k (ILSVRC2012) from https://image-net.org, unpack it so that "
            "<folder>/train/n01440764/*.JPEG and <folder>/val/*.JPEG exist, and write the lists "
            "with `ppcls-lite prepare imagenet <folder>`"
        )
    if "digits" in path:
        return "write the digits data set with `ppcls-lite prepare digits`"
    return (
        "correct the path, or, for a folder with one sub-folder of images per class, write the "
        "lists with `ppcls-lite prepare folder <folder>`"
    )
