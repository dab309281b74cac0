"""One flat registry: component name -> where its class lives and which arguments it takes.

The registry is read from the package's *source* (`ast`), not by importing it: a configuration can
be checked, and every component listed, without loading Paddle. `@register("kind")` marks a class;
the class is imported when it is built. Because of that a registered class keeps to three rules
(a test compares them with `inspect.signature`): fully annotated arguments in the types of
schema.py, literal defaults, no `*args` or `**kwargs`. Read next: config.py.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

from ppcls_lite.config import schema

Class = TypeVar("Class", bound=type)
REQUIRED: Any = ...  # the default of an argument that must be given
PACKAGE = Path(__file__).resolve().parent.parent

_TYPES: Mapping[str, Any] = {
    **{t.__name__: t for t in (bool, int, float, str, list, dict)},
    **{name: kind for name, kind in vars(schema).items() if get_origin(kind) is Annotated},
    "Size": schema.Size,
    "Component": schema.Component,
    "Literal": Literal,
    "Any": Any,
}


@dataclass(frozen=True)
class Argument:
    """One constructor argument: its name, its type (a `typing` object) and its default."""

    name: str
    type: Any
    default: Any = REQUIRED


@dataclass(frozen=True)
class Entry:
    """One component: `kind` and `name` as in the YAML, the class, and its arguments.

    `fixed` holds the arguments that a name of the zoo stands for (`PPLCNet_x0_5`: scale 0.5).
    """

    name: str
    kind: str
    module: str
    class_name: str
    arguments: tuple[Argument, ...]
    summary: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> type:
        """Import and return the class."""
        return getattr(importlib.import_module(self.module), self.class_name)


def register(
    kind: str, name: str | None = None, aliases: tuple[str, ...] = ()
) -> Callable[[Class], Class]:
    """Mark a class as a component of `kind`, known by `name` (default: the class's) and `aliases`.

    The mark is read from the source, so all three must be literals; at run time the class is
    returned as it is.
    """
    del kind, name, aliases
    return lambda cls: cls


@functools.cache
def entries() -> dict[tuple[str, str], Entry]:
    """All components of the package, keyed by (kind, name)."""
    found: dict[tuple[str, str], Entry] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "@register(" not in source:
            continue
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        module = ".".join(relative.parts).removesuffix(".__init__")
        for entry in _entries_of(ast.parse(source, str(path)), module):
            other = found.setdefault((entry.kind, entry.name), entry)
            if other is not entry:
                raise TypeError(f"{entry.kind} {entry.name!r}: {module} and {other.module}")
    return found | _zoo_entries(found)


def names(kind: str) -> list[str]:
    """The sorted names of one kind."""
    return sorted(name for entry_kind, name in entries() if entry_kind == kind)


def _zoo_entries(found: dict[tuple[str, str], Entry]) -> dict[tuple[str, str], Entry]:
    """The rows of the model zoo: a family's class with some arguments fixed."""
    from ppcls_lite.config.zoo import ZOO

    rows = {}
    for name, row in ZOO.items():
        family = found["model", row.family]
        free = tuple(a for a in family.arguments if a.name not in row.args)
        summary = f"{row.family} with {row.args}" if row.args else family.summary
        rows["model", name] = Entry(
            name, "model", family.module, family.class_name, free, summary, row.args
        )
    return rows


def _entries_of(tree: ast.Module, module: str) -> list[Entry]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "register":
                options = {k.arg: ast.literal_eval(k.value) for k in mark.keywords}
                kind, *positional = (ast.literal_eval(a) for a in mark.args)
                name = options.get("name") or (positional or [node.name])[0]
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                arguments = _arguments(node, module)
                for alias in (name, *options.get("aliases", ())):
                    found.append(Entry(alias, kind, module, node.name, arguments, summary))
    return found


def _arguments(node: ast.ClassDef, module: str) -> tuple[Argument, ...]:
    init = next((f for f in node.body if getattr(f, "name", "") == "__init__"), None)
    if not isinstance(init, ast.FunctionDef):
        return ()
    where = f"{module}.{node.name}"
    spec = init.args
    if spec.vararg or spec.kwarg or spec.posonlyargs:
        raise TypeError(f"{where}: a registered constructor takes named arguments only")
    positional = spec.args[1:]
    missing = [None] * (len(positional) - len(spec.defaults))
    pairs = [*zip(positional, [*missing, *spec.defaults]), *zip(spec.kwonlyargs, spec.kw_defaults)]
    return tuple(_argument(argument, default, where) for argument, default in pairs)


def _argument(argument: ast.arg, default: ast.expr | None, where: str) -> Argument:
    if argument.annotation is None:
        raise TypeError(f"{where}: argument {argument.arg!r} has no annotation")
    try:
        kind = _type(argument.annotation)
        value = REQUIRED if default is None else ast.literal_eval(default)
    except (KeyError, ValueError) as error:
        raise TypeError(f"{where}: argument {argument.arg!r}: not in schema.py: {error}") from error
    return Argument(argument.arg, kind, value)


def _type(node: ast.expr) -> Any:
    """The type that an annotation in the source stands for."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):  # a quoted annotation
            return _type(ast.parse(text, mode="eval").body)
        case ast.Name(id=name):
            return _TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="Literal" | "Component" as name), slice=item):
            return _TYPES[name][ast.literal_eval(item)]
        case ast.Subscript(value=base, slice=ast.Tuple(elts=items)):
            return _type(base)[tuple(_type(item) for item in items)]
        case ast.Subscript(value=base, slice=item):
            return _type(base)[_type(item)]
    raise ValueError(ast.unparse(node))
