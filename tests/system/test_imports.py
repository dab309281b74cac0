"""What follows an import comes once, after it, whoever imports."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from ppcls_lite.system.imports import after_import


def test_it_comes_once_after_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package" / "__init__.py").write_text("from late_package import inner\n")
    (tmp_path / "late_package" / "inner.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before, seen = list(sys.meta_path), []

    def noted(mark: str) -> None:
        seen.append((mark, sys.modules["late_package"].inner.value))

    with after_import("late_package", lambda: noted("a")):
        with after_import("late_package", lambda: noted("b")):
            importlib.import_module("json")
            assert importlib.util.find_spec("late_package") is not None and not seen
            importlib.import_module("late_package")
        importlib.reload(sys.modules["late_package"])
    with after_import("late_package", lambda: noted("c")):
        importlib.import_module("late_package.inner")
    assert sorted(seen) == [("a", 3), ("b", 3)] and sys.meta_path == before
    monkeypatch.delitem(sys.modules, "late_package")
    monkeypatch.delitem(sys.modules, "late_package.inner")


def test_a_package_that_is_missing_stays_missing() -> None:
    before, seen = list(sys.meta_path), []
    with after_import("no_such_package", lambda: seen.append(1)):
        for _ in range(2):
            with pytest.raises(ModuleNotFoundError, match="no_such_package"):
                importlib.import_module("no_such_package")
    assert not seen and sys.meta_path == before
