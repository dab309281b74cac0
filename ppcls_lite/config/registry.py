"""Component name -> where its class lives and which arguments it takes.

The table is read from *source* (source.py), not by importing it: a configuration can be checked,
and every component listed, without loading Paddle. `@register("kind")` marks a class; the class is
imported when it is built. Because of that a registered class keeps to three rules (a test compares
them with `inspect.signature`): fully annotated arguments in the types of schema.py, literal
defaults, no `*args` or `**kwargs`.

Components come from this package, from installed packages (entry-point group
`ppcls_lite.plugins`, whose entries name modules), and from the files that a recipe names as
`Global.plugins`. The latter are handed on by whoever looks a name up; nothing is remembered of
them but the imported modules. Read next: check.py.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from ppcls_lite.config.file import is_file
from ppcls_lite.config.source import PACKAGE, Argument, Source
from ppcls_lite.config.source import REQUIRED as REQUIRED
from ppcls_lite.config.zoo import OVER_TRUNKS, ZOO
from ppcls_lite.errors import ConfigError, cut

Class = TypeVar("Class", bound=type)
GROUP = "ppcls_lite.plugins"  # the entry-point group of installed plug-ins


@dataclass(frozen=True)
class Entry:
    """One component: `kind` and `name` as in the YAML, the class, and its arguments.

    `fixed` holds the arguments that a name of the zoo stands for (`PPLCNet_x0_5`: scale 0.5), and
    `stands_for` those of a network over a trunk, as a recipe writes them: components among them
    may be given further arguments, but not another name.
    `path` is the file that holds the class; `plugin` names the file or the installed package of a
    component that is not this package's, and `from_file` says that it is a file.
    """

    name: str
    kind: str
    module: str
    class_name: str
    arguments: tuple[Argument, ...]
    summary: str = ""
    path: Path = PACKAGE
    plugin: str | None = None
    from_file: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    stands_for: Mapping[str, Any] = field(default_factory=dict)

    def fix(self, values: Mapping[str, Any]) -> Entry:
        """The same component with some arguments decided; those that it does not take are left."""
        fixed = {a.name: values[a.name] for a in self.arguments if a.name in values}
        free = tuple(a for a in self.arguments if a.name not in fixed)
        return replace(self, arguments=free, fixed={**self.fixed, **fixed})

    def load(self) -> type:
        """Import and return the class; ConfigError where a plug-in cannot be imported."""
        run = self.from_file and self.module not in sys.modules
        module = _run(self.path, self.module) if run else importlib.import_module(self.module)
        return getattr(module, self.class_name)


Table = Mapping[tuple[str, str], Entry]


def register(
    kind: str, name: str | None = None, aliases: tuple[str, ...] = ()
) -> Callable[[Class], Class]:
    """Mark a class as a component of `kind`, known by `name` (default: the class's) and `aliases`.

    The mark is read from the source, so all three must be literals; at run time the class is
    returned as it is.
    """
    del kind, name, aliases
    return lambda cls: cls


class _Installed(Mapping[tuple[str, str], Entry]):
    """The installed components; the files of a kind are read when it is first asked for, and
    installed plug-ins when this package has no such component.

    Reading all takes half a second, which a predictor's start can spare.
    """

    def __getitem__(self, key: tuple[str, str]) -> Entry:
        own = _package(key[0])
        return own[key] if key in own else _everything()[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(_everything())

    def __len__(self) -> int:
        return len(_everything())


def entries(plugins: Sequence[str | Path] = ()) -> Table:
    """All components, keyed by (kind, name): the installed ones and those of the files `plugins`.

    Raises ConfigError for a file that is missing, broken or without components, and for a name
    that is taken, with both files.
    """
    if not plugins:
        return _Installed()
    table = dict(_everything())
    for file in dict.fromkeys(Path(plugin).expanduser().absolute() for plugin in plugins):
        _add(table, _of_file(file))
    return table


def find(kind: str, name: Any, table: Table) -> Entry | None:
    """The component of that kind and name; None if there is none.

    A model is also found as `<prefix>_<trunk>`, a network of `OVER_TRUNKS` over another model.
    """
    if not isinstance(name, str):
        return None
    if kind != "model" or (kind, name) in table:
        return table.get((kind, name))
    for prefix, network in OVER_TRUNKS.items():
        trunk = name.removeprefix(f"{prefix}_")
        if trunk != name and (kind, trunk) in table:
            summary = f"{network.family} over {trunk}"
            own = replace(table[kind, network.family], name=name, summary=summary)
            return replace(own, stands_for=network.arguments(trunk))
    return None


def names(kind: str, table: Table | None = None) -> list[str]:
    """The sorted names of one kind."""
    table = entries() if table is None else table
    return sorted(name for entry_kind, name in table if entry_kind == kind)


@functools.cache
def _package(only: str | None = None) -> Table:
    """The components of this package and its model zoo; `only`: those beside one kind at least."""
    table: dict[tuple[str, str], Entry] = {}
    mark = "@register(" if only is None else f'@register("{only}"'
    for path, text in _modules():
        if mark in text:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            _add(table, _read(Source(path), ".".join(parts).removesuffix(".__init__")))
    for name, row in ZOO.items() if only in (None, "model") else ():
        family = table["model", row.family]
        summary = f"{row.family} with {row.args}" if row.args else family.summary
        table["model", name] = replace(family, name=name, summary=summary).fix(row.args)
    return table


@functools.cache
def _modules() -> list[tuple[Path, str]]:
    """The files of this package that mark components, and their texts."""
    texts = ((path, path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py")))
    return [(path, text) for path, text in texts if "@register(" in text]


@functools.cache
def _everything() -> Table:
    """The components of this package and of installed packages that have an entry point."""
    import importlib.metadata  # a twentieth of a predictor's start

    table = dict(_package())
    for point in importlib.metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist else point.module
        try:
            found = importlib.util.find_spec(point.module)
        except ImportError:
            found = None
        if found is None or not found.origin:
            raise ConfigError(
                f"the installed package {package} names {point.module} in the entry-point group "
                f"{GROUP}, but there is no such module: repair it, or pip uninstall {package}"
            )
        _add(table, _read(Source(Path(found.origin)), point.module, package))
    return table


def _of_file(file: Path) -> list[Entry]:
    """The components of a plug-in file."""
    if not is_file(file):
        near = difflib.get_close_matches(file.name, [f.name for f in file.parent.glob("*.py")], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"plug-in {cut(str(file), 500)}: there is no such file{hint}")
    source = Source(file)
    key = zlib.crc32(f"{file}\n{source.text}".encode())  # a changed file is another module
    module = f"plugin_{file.stem}_{key:08x}"
    found = [replace(e, from_file=True) for e in _read(source, module, file.name)]
    if not found:
        raise ConfigError(
            f"plug-in {file}: there is no component in it; mark a class with @register(KIND), "
            "`from ppcls_lite import register`"
        )
    return found


def _read(source: Source, module: str, plugin: str | None = None) -> Iterator[Entry]:
    for mark in source.marks():
        kinds = {kind for kind, _ in _package()} if plugin else {mark.kind}
        if mark.kind not in kinds:
            raise ConfigError(
                f"{source.path}:{mark.line}: there is no kind {mark.kind!r} of component; kinds: "
                f"{', '.join(sorted(kinds))}"
            )
        for name in mark.names:
            yield Entry(
                *(name, mark.kind, module, mark.class_name, mark.arguments, mark.summary),
                *(source.path, plugin),
            )


def _add(table: dict[tuple[str, str], Entry], found: Iterable[Entry]) -> None:
    for entry in found:
        other = table.setdefault((entry.kind, entry.name), entry)
        if other is not entry:
            raise ConfigError(
                f"{entry.path}: the {entry.kind} {entry.name!r} is in {other.path} already; give "
                "one of them another name"
            )


class _Source(importlib.machinery.SourceFileLoader):
    """Reads the source itself, never what Python keeps of it: that is told apart by its size and
    the second of its change, which two states of a file may share."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run(path: Path, name: str) -> ModuleType:
    """Run a plug-in's file as the module `name`."""
    loader = _Source(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except Exception as error:
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f":{f.lineno}" for f in reversed(frames) if f.filename == str(path)), "")
        raise ConfigError(
            f"plug-in {path}{line}: cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return made
