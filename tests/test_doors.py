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
DOORS = {
    "errors": "",
    "system": "errors",
    "config": "errors",
    "ops": "",
    "data": "config errors ops system",
    "models": "config errors ops system",
    "losses": "config errors ops system",
    "optim": "config errors system",
    "metrics": "config errors losses ops report system",
    "kernels": "errors models ops system",
    "engine": "errors system",
    "loggers": "config engine errors system",
    "inference": "config data errors ops system",
    "report": "data engine errors inference system",
    "serve": "errors inference system",
    "distill": "config data engine errors inference system",
    "benchmark": "config errors inference models system",
    "recipe": (
        "config data distill engine errors inference kernels loggers losses metrics models ops "
        "optim report system"
    ),
    "fit": "benchmark config data engine errors inference models recipe system",
    "search": "benchmark config data distill engine errors inference kernels models recipe system",
    "cli": (
        "benchmark config data distill engine errors fit inference models recipe report search "
        "serve system"
    ),
    "completion": "cli",
    "__main__": "cli",
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


def modules() -> dict[str, Path]:
    """Dotted name below ppcls_lite -> file, of all modules."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def test_every_room_has_a_row() -> None:
    rooms = {name.partition(".")[0] for name in modules()} - {"__init__"}
    assert rooms == set(DOORS)


@pytest.mark.parametrize("room", DOORS)
def test_a_room_imports_only_what_its_doors_allow(room: str) -> None:
    allowed = {*DOORS[room].split(), room}
    for name, path in modules().items():
        if name.partition(".")[0] == room:
            for imported in imports_of(path) - {"__version__"}:
                door = imported.partition(".")[0]
                assert door in allowed, f"{path.relative_to(ROOT)} imports ppcls_lite.{imported}"


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """Some nodes that reach each other in a circle; empty if there is none."""
    done: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str]:
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := visit(other, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_no_room_reaches_itself_through_others() -> None:
    assert _circle({room: set(doors.split()) for room, doors in DOORS.items()}) == []
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_module_reaches_itself_through_others() -> None:
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        graph[name] = set()
        for imported in imports_of(path):
            target = imported if imported in known else imported.rpartition(".")[0]
            graph[name] |= {target} & known.keys() - {name}
    assert _circle(graph) == []


def test_tests_mirror_the_package() -> None:
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert folders - {"__pycache__", "fixtures"} <= {*DOORS, "experiments"}


def test_the_predictor_loads_no_training_code() -> None:
    code = (
        "import sys, ppcls_lite\n"
        "ppcls_lite.Predictor\n"
        "rooms = ('engine', 'losses', 'metrics', 'optim', 'recipe', 'models.create', 'distill')\n"
        "print([m for m in sys.modules if m.startswith(tuple('ppcls_lite.' + r for r in rooms))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


SCRIPTS = sorted(path for folder in ("tools", "deploy") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_scripts_are_thin(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
