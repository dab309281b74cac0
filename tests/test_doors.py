"""Which room may import which: ARCHITECTURE.md, "Doors", read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ppcls_lite"

# room -> the other rooms of the package that it may import (at any depth of a function)
ALLOWED = {
    "errors": set(),
    "schema": set(),
    "settings": {"schema"},
    "registry": {"schema", "models.zoo"},
    "config_file": {"errors"},
    "config": {"errors", "schema", "registry", "settings"},
    "safe_pickle": {"errors"},
    "data": {"errors", "schema", "registry"},
    "models": {
        "errors",
        "schema",
        "registry",
        "safe_pickle",
        # teachers from files: inference_model.py
        "inference.engines",
        "inference.spec",
        "data.transforms",
    },
    "kernels": {"errors", "models.layers"},
    "losses": {"errors", "schema", "registry"},
    "metrics": {"errors", "schema", "registry", "losses.targets"},
    "optim": {"errors", "schema", "registry", "schedule"},
    "schedule": {"errors", "schema", "registry"},
    "tasks": {"errors"},
    "engine": {"errors", "safe_pickle", "tasks", "schedule"},
    "serve": {"errors", "inference"},
    "inference": {"errors", "schema", "registry", "config", "data.transforms"},
}


def imports_of(path: Path) -> set[str]:
    """The dotted names below ppcls_lite that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {n.removeprefix("ppcls_lite.") for n in names if n.startswith("ppcls_lite.")}
    return found


def modules(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_its_doors_allow(room: str) -> None:
    allowed = {*ALLOWED[room], room}
    for path in modules(room):
        for name in imports_of(path):
            inside = any(name == door or name.startswith(f"{door}.") for door in allowed)
            version = name == "__version__"
            assert inside or version, f"{path.relative_to(ROOT)} imports ppcls_lite.{name}"


def test_the_predictor_loads_no_training_code() -> None:
    code = (
        "import sys, ppcls_lite\n"
        "ppcls_lite.Predictor\n"
        "rooms = ('engine', 'losses', 'metrics', 'tasks', 'optim', 'recipe', 'models.create')\n"
        "print([m for m in sys.modules if m.startswith(tuple('ppcls_lite.' + r for r in rooms))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.name)
def test_the_scripts_are_thin(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
