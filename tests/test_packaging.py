"""The lists of packages: setup.py's extras, and what the tests install."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).resolve().parent.parent


def test_the_tests_install_every_extra() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.keywords)
    extras = next(k.value for k in call.keywords if k.arg == "extras_require")
    assert isinstance(extras, ast.Dict)
    wanted = {
        package
        for name, packages in zip(extras.keys, extras.values)
        if ast.literal_eval(name) != "test"
        for package in ast.literal_eval(packages)
    }
    installed = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert "onnxruntime>=1.18" in wanted
    assert wanted <= set(installed)


def test_the_package_is_whole_and_has_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    runpy.run_path("setup.py")
    folders = {path.parent for path in Path("ppcls_lite").rglob("*.py")}
    modules = {".".join(folder.parts) for folder in folders}
    assert set(found["packages"]) == {*modules, "ppcls_lite.configs"}
    assert found["entry_points"] == {"console_scripts": ["ppcls-lite = ppcls_lite.cli:main"]}
