"""What the source of a module says about its components, read with `ast`: nothing is imported.

The arguments of a registered class are those of its own `__init__`; of a `@dataclass`, its
annotated fields (its bases' fields first, as Python orders them); else those that it inherits.
Bases are followed within the file and into this package. What cannot be read is a ConfigError
with file and line. Read before: schema.py (the types). Read next: registry.py (the table).
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, get_origin

from ppcls_lite.config import schema
from ppcls_lite.errors import ConfigError

REQUIRED: Any = ...  # the default of an argument that must be given
PACKAGE = Path(__file__).resolve().parent.parent
_MARKS = ("ppcls_lite.register", "ppcls_lite.config.registry.register")
_ALONE = "a registered class stands alone on the top level of its file"

_TYPES: Mapping[str, Any] = {
    **{t.__name__: t for t in (bool, int, float, str, list, dict)},
    **{n: kind for n, kind in vars(schema).items() if get_origin(kind) in (Annotated, Literal)},
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


class Mark(NamedTuple):
    """A class marked with `@register(kind, ...)`: `names` are its name and its aliases."""

    kind: str
    names: tuple[str, ...]
    class_name: str
    arguments: tuple[Argument, ...]
    summary: str
    line: int


class Source:
    """One parsed module; raises ConfigError where it is missing or not Python."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8-sig")
            self.tree = ast.parse(self.text, str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a UTF-8 text file: {error.reason}") from error
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise ConfigError(f"{path}:{line}: not valid Python: {error}") from error
        self.classes = {n.name: n for n in self.tree.body if isinstance(n, ast.ClassDef)}
        self.imports = dict(_imports(self.tree))

    def marks(self) -> list[Mark]:
        """Every registered class of the module; a mark that cannot be read is an error."""
        found, read = [], set()
        for node in self.classes.values():
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and self._stands_for(decorator.func) in _MARKS:
                    found.append(self._mark(node, decorator))
                    read.add(decorator.func)
        for node in ast.walk(self.tree) if self._more_than(len(found)) else ():
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    known = name == "register" or name in self.imports
                    is_mark = known and self._stands_for(node) in _MARKS
                case _:
                    is_mark = False
            if is_mark and node not in read:
                self._refuse(node, f"expected @register(KIND) before a class; {_ALONE}")
        return found

    def _more_than(self, marks: int) -> bool:
        """Whether the text may name a mark elsewhere than in its import and before `marks` classes;
        looking at every node takes ten times as long."""
        names = [name for name, stands_for in self.imports.items() if stands_for in _MARKS]
        return names != ["register"] or len(re.findall(r"\bregister\b", self.text)) != marks + 1

    def _mark(self, node: ast.ClassDef, decorator: ast.Call) -> Mark:
        if not isinstance(decorator.func, ast.Name) or decorator.func.id != "register":
            self._refuse(decorator, "expected `from ppcls_lite import register`, @register(KIND)")
        try:
            given = [ast.literal_eval(item) for item in decorator.args]
            options = {item.arg: ast.literal_eval(item.value) for item in decorator.keywords}
        except ValueError:
            self._refuse(decorator, "expected literal arguments: the mark is read, not run")
        options = dict(zip(("kind", "name", "aliases"), given)) | options
        kind, name = options.pop("kind", None), options.pop("name", None) or node.name
        aliases = options.pop("aliases", ())
        if options or not all(isinstance(text, str) for text in (kind, name, *aliases)):
            self._refuse(decorator, 'expected register("KIND", name="NAME", aliases=("NAME",))')
        summary = (ast.get_docstring(node) or "").split("\n")[0]
        arguments = self._constructor(node) or ()
        return Mark(kind, (name, *aliases), node.name, arguments, summary, node.lineno)

    def _constructor(self, node: ast.ClassDef) -> tuple[Argument, ...] | None:
        """The arguments of a class; None if neither it nor a base that is read has any."""
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return self._signature(item)
        if _is_dataclass(node):
            fields = self._fields(node).values()
            ordered = [
                *(a for a, named in fields if not named),
                *(a for a, named in fields if named),
            ]
            return tuple(ordered)
        inherited = (source._constructor(base) for source, base in self._bases(node))
        return next((found for found in inherited if found is not None), None)

    def _signature(self, init: ast.FunctionDef) -> tuple[Argument, ...]:
        spec = init.args
        if spec.vararg or spec.kwarg or spec.posonlyargs:
            self._refuse(init, "a registered constructor takes named arguments only")
        positional = spec.args[1:]
        missing = [None] * (len(positional) - len(spec.defaults))
        pairs = zip(positional, [*missing, *spec.defaults])
        pairs = [*pairs, *zip(spec.kwonlyargs, spec.kw_defaults)]
        return tuple(self._argument(a, a.arg, a.annotation, default) for a, default in pairs)

    def _fields(self, node: ast.ClassDef) -> dict[str, tuple[Argument, bool]]:
        """Name -> (field, whether it is keyword-only) of a class and the dataclasses below it."""
        found: dict[str, tuple[Argument, bool]] = {}
        for source, base in reversed(self._bases(node)):
            found |= source._fields(base)
        named = False
        for item in node.body if _is_dataclass(node) else ():
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            name, annotation = item.target.id, ast.unparse(item.annotation)
            if annotation.rpartition(".")[2] == "KW_ONLY":
                named = True
            elif annotation.startswith(("ClassVar", "typing.ClassVar")):
                found.pop(name, None)
            else:
                found[name] = self._argument(item, name, item.annotation, item.value), named
        return found

    def _bases(self, node: ast.ClassDef) -> list[tuple[Source, ast.ClassDef]]:
        """The bases whose source is read: those of the same file and of this package."""
        named = (self._class(self._stands_for(base)) for base in node.bases)
        return [base for base in named if base is not None]

    def _class(self, name: str) -> tuple[Source, ast.ClassDef] | None:
        if name in self.classes:
            return self, self.classes[name]
        module, _, name = name.rpartition(".")
        path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        if not module.startswith(f"{PACKAGE.name}.") or not path.is_file():
            return None
        source = _of_package(path)
        return source._class(source.imports.get(name, name))

    def _stands_for(self, node: ast.expr) -> str:
        """A dotted name with its first part replaced by what the module imports under it."""
        name = ast.unparse(node)
        head, dot, rest = name.partition(".")
        return f"{self.imports.get(head, head)}{dot}{rest}"

    def _argument(
        self, node: ast.AST, name: str, annotation: ast.expr | None, default: ast.expr | None
    ) -> Argument:
        if annotation is None:
            self._refuse(node, f"the argument {name!r} has no annotation")
        try:
            kind = _type(annotation)
        except (KeyError, ValueError, TypeError):
            self._refuse(
                node,
                f"the argument {name!r}: expected a type of ppcls_lite.config.schema, found "
                f"{ast.unparse(annotation)}",
            )
        try:
            return Argument(name, kind, REQUIRED if default is None else ast.literal_eval(default))
        except ValueError:
            self._refuse(
                node,
                f"the argument {name!r}: expected a literal as default, found "
                f"{ast.unparse(default)}",
            )

    def _refuse(self, node: Any, problem: str) -> NoReturn:
        raise ConfigError(f"{self.path}:{node.lineno}: {problem}")


@functools.cache
def _of_package(path: Path) -> Source:
    return Source(path)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a module, those inside others included, without their expressions."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, name, ()):
            yield child
            yield from _statements(child)


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name in the module -> the dotted name that it was imported as."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = "register" if alias.name == "*" else alias.name
                yield alias.asname or name, f"{node.module}.{name}"


def _is_dataclass(node: ast.ClassDef) -> bool:
    names = (ast.unparse(getattr(d, "func", d)) for d in node.decorator_list)
    return any(name in ("dataclass", "dataclasses.dataclass") for name in names)


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
