"""Comments and docstrings name only files and symbols that exist."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ppcls_lite", "experiments", "tools", "deploy", "tests")
SOURCES = [
    *sorted(ROOT.glob("*.py")),
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))),
]
_FILE = re.compile(r"(?<![\w/.*<])(?:\.\./)?((?:[\w-]+/)*[\w-]+\.py)\b")
_QUOTED = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")
# Words of others and patterns of names, which stand in no code of ours.
FOREIGN = {"SerializeToStream", "taskset", "epoch_N", "moment1", "DistillationXLoss", "conv3_2"}


class Said(NamedTuple):
    """What a source says: (line, text) of each comment and docstring, and the words of its code
    and of its other texts."""

    remarks: tuple[tuple[int, str], ...]
    words: frozenset[str]


@functools.cache
def said(path: Path) -> Said:
    source = path.read_text(encoding="utf-8")
    remarks = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    docs, words = set(), set()
    for node in ast.walk(ast.parse(source)):  # a docstring comes after what it belongs to
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                docs.add(id(first.value))
            if text := ast.get_docstring(node, clean=False):
                remarks.append((node.body[0].lineno, text))
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in docs:
                words |= set(re.findall(r"\w+", node.value))
            continue
        for field in ("id", "name", "attr", "arg", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                words |= set(value.split("."))
    return Said(tuple(remarks), frozenset(words))


@functools.cache
def known_words() -> frozenset[str]:
    """Every word of the code, of its texts that are no docstrings, and of the recipes."""
    words = set().union(*(said(path).words for path in SOURCES))
    for suffix in ("yaml", "yml", "cpp", "h", "html", "txt", "sh"):
        for path in ROOT.glob(f"[!.]*/**/*.{suffix}"):
            words |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return frozenset(words)


def missing_files(path: Path, names: frozenset[str]) -> list[str]:
    found = []
    for line, text in said(path).remarks:
        for name in _FILE.findall(text):
            if not any(f"/{known}".endswith(f"/{name}") for known in names):
                found.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    return found


def missing_symbols(path: Path, words: frozenset[str]) -> list[str]:
    found = []
    for line, text in said(path).remarks:
        for name in _QUOTED.findall(text):
            parts = [part for part in name.split(".") if part]
            known = all(part in words for part in parts) or parts[0] in FOREIGN
            if not known and "..." not in name:
                found.append(f"{path.relative_to(ROOT)}:{line}: `{name}`")
    return found


def test_files_that_are_named_exist() -> None:
    names = frozenset(str(path.relative_to(ROOT)) for path in SOURCES)
    assert [line for path in SOURCES for line in missing_files(path, names)] == []


def test_symbols_that_are_named_exist() -> None:
    words = known_words()
    assert [line for path in SOURCES for line in missing_symbols(path, words)] == []


def test_what_is_missing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "a.py"
    path.write_text('"""See gone.py and `Nowhere`, not a.py or `here`."""\nhere = 1  # `gone`\n')
    assert missing_files(path, frozenset({"a.py"})) == ["a.py:1: gone.py"]
    assert missing_symbols(path, frozenset({"here"})) == ["a.py:2: `gone`", "a.py:1: `Nowhere`"]
