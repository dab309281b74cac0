"""Image lists: text files with one image a line, its path and its label, as in PaddleClas.

The label is what follows the *last* delimiter, so that paths may hold spaces. UTF-8, with or
without a byte order mark; blank lines and CRLF ends do no harm. Mistakes are collected, not raised:
a user wants to see all of them. Read next: plain_lines.py, datasets.py, scan.py.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config.file import is_file, is_folder
from ppcls_lite.data.plain_lines import plain_lines
from ppcls_lite.errors import UserError, cut, shown
from ppcls_lite.system.files import atomic_text

_NO_CSV = "a list is no CSV file: set the data set's `delimiter`, and write paths without quotes"
SHOWN = 5  # mistakes of one kind that are shown in full
_BLOCK = 1 << 22  # bytes of a list that are read at once
_TOGETHER = 1 << 12  # paths that are decoded at once


class PathList(Sequence[str]):
    """Many paths in two flat buffers instead of one string object each.

    ImageNet's take 50 MB this way, and worker processes share them with their parent: reading a
    Python string changes its reference count and so copies its memory page into every worker.
    """

    def __init__(self, paths: Iterable[str], root: str = "") -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._keep([b"".join(encoded)], [np.array([len(e) for e in encoded], np.int64)], root)

    @classmethod
    def joined(cls, parts: list[bytes], lengths: list[np.ndarray], root: str) -> PathList:
        """Of parts that hold paths one after another, and the bytes of each path."""
        made = cls.__new__(cls)
        made._keep(parts, lengths, root)
        return made

    def _keep(self, parts: list[bytes], lengths: list[np.ndarray], root: str) -> None:
        self.root = os.path.normpath(root) if root else root
        self._prefix = os.path.join(self.root, "")  # noqa: PTH118 (with a slash at its end)
        self._bytes = b"".join(parts)
        self._ends = np.cumsum(np.concatenate([*lengths, np.zeros(0, np.int64)]), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # resolves -1, raises IndexError
        start = self._ends[index - 1] if index else 0
        return self._path(os.fsdecode(self._bytes[start : self._ends[index]]))

    def __iter__(self) -> Iterator[str]:
        first = 0
        for place in range(0, len(self), _TOGETHER):
            ends = self._ends[place : place + _TOGETHER].tolist()
            block, start = self._bytes[first : ends[-1]], 0
            text = block.decode() if block.isascii() else None
            for end in ends:
                end -= first
                name = text[start:end] if text is not None else os.fsdecode(block[start:end])
                yield self._path(name)
                start = end
            first = ends[-1]

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else self._prefix + name


@dataclass
class ImageList:
    """A list file as read: the lines that are right, and what is wrong with the others."""

    file: str
    paths: PathList
    labels: Sequence[Any] | np.ndarray  # (len(paths),) int64, or what `parse_label` made
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
    _require_file(file)
    found = _Lines(file, delimiter, parse_label)
    first = 1
    for block in _blocks(file):
        plain = plain_lines(block, delimiter) if parse_label is _class_id else None
        if plain is None:
            found.read(block, first)
        else:
            found.parts.append(plain.paths)
            found.lengths.append(plain.lengths)
            found.labels.append(plain.labels)
            found.lines.append(plain.places + first)
        first += block.count(b"\n")
    require_folder(root)
    return found.together(root)


class _Lines:
    """What was read of a list so far, block by block."""

    def __init__(
        self, file: str, delimiter: str | None, parse_label: Callable[[str], Any] | None
    ) -> None:
        self._file, self._delimiter, self._parse_label = file, delimiter, parse_label
        self.parts: list[bytes] = []
        self.lengths: list[np.ndarray] = []
        self.labels: list[Any] = []  # by block
        self.lines: list[np.ndarray] = []
        self._bad: list[str] = []
        self._more_bad = 0

    def read(self, block: bytes, first: int) -> None:
        """Take in a block, line by line; its first line has the number `first`."""
        names, labels, lines = [], [], []
        for number, line in _numbered(_decoded(block, self._file, first), first):
            try:
                name, label = _split(line, self._delimiter, self._parse_label)
            except ValueError as error:
                if len(self._bad) < SHOWN:
                    self._bad.append(f"{self._file}:{number}: {error}")
                else:
                    self._more_bad += 1
                continue
            names.append(os.fsencode(name))
            labels.append(label)
            lines.append(number)
        self.parts.append(b"".join(names))
        self.lengths.append(np.array([len(name) for name in names], np.int64))
        self.labels.append(labels)
        self.lines.append(np.array(lines, np.int64))

    def together(self, root: str) -> ImageList:
        """All of it, and what is wrong with it."""
        problems = self._bad
        if self._more_bad:
            problems.append(f"{self._file}: {self._more_bad:,} more malformed lines")
        paths = PathList.joined(self.parts, self.lengths, root)
        if not len(paths) and not problems:
            problems.append(f"{self._file}: the list is empty")
        if self._parse_label is _class_id:
            labels = np.concatenate([np.zeros(0, np.int64), *self.labels]).astype(np.int64)
        else:
            labels = list(itertools.chain.from_iterable(self.labels))
        lines = np.concatenate([np.zeros(0, np.int64), *self.lines])
        return ImageList(self._file, paths, labels, lines, problems)


def some(names: Sequence[Any] | np.ndarray) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def read_lines(file: str) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, stripped, with their numbers from 1.

    Raises UserError where the file does not exist or is not UTF-8.
    """
    _require_file(file)
    return list(_numbered(read_text(file)))


def read_text(file: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8; the message says what else it may be.
    """
    try:
        return _decoded(Path(file).read_bytes().removeprefix(codecs.BOM_UTF8), file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _require_file(file: str) -> None:
    if not is_file(file):
        raise UserError(
            f"there is no file {shown(file)} (looked for {cut(str(Path(file).absolute()), 500)}); "
            f"{_how_to_prepare(file)}"
        )


def _unreadable(file: str | Path, error: OSError) -> UserError:
    return UserError(f"{file}: cannot be read: {error.strerror}; change its rights")


def _blocks(file: str) -> Iterator[bytes]:
    """The bytes of a file in parts that end with a line, without a byte order mark."""
    try:
        with Path(file).open("rb") as stream:
            if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                stream.seek(0)
            while block := stream.read(_BLOCK) + stream.readline():
                yield block
    except OSError as error:
        raise _unreadable(file, error) from error


def _numbered(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, stripped, with their numbers."""
    # Not splitlines(): it would also split at rare characters that a file name may hold.
    for number, line in enumerate(text.split("\n"), first):
        if line := line.strip():
            yield number, line


def _decoded(data: bytes, file: str | Path, first: int = 1) -> str:
    """UTF-8 bytes as text; UserError for others. `first`: the number of their first line."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise UserError(
            f"{file}: expected UTF-8 text, found UTF-16, as Windows calls Unicode, or no text at "
            "all; save the file as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first + data.count(b"\n", 0, error.start)
        raise UserError(
            f"{file}:{line}: not UTF-8 text; save the file as UTF-8, for example with "
            "`iconv -f GB18030 -t UTF-8`"
        ) from error


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a list that `read_lines` gives back; a name that begins with a blank gets a `./`.

    Raises:
        UserError: a line that a list cannot hold, with a line break or not UTF-8.
    """
    with atomic_text(file, newline="\n") as stream:
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
