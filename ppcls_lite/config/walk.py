"""Along the types of the schema: values converted, components found, every mistake noted.

Read before: schema.py, node.py. Read next: check.py, which starts it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from ppcls_lite.config import registry
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.file import MAX_NAME
from ppcls_lite.config.node import Node
from ppcls_lite.config.registry import REQUIRED, Argument, Entry
from ppcls_lite.config.schema import ComponentOf, IgnoredKey, Only, Pixels, Range
from ppcls_lite.config.settings import DataLoaderSettings, GlobalSettings, InferSettings
from ppcls_lite.config.zoo import OVER_TRUNKS
from ppcls_lite.errors import ConfigError, cut, shown

# Filled in by the recipe.
CONTEXT = ("class_num", "epochs", "step_each_epoch", "iters", "seed", "postprocess")
DEFAULT_NAME = {"schedule": "ConstLR", "sampler": "DistributedBatchSampler"}
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
_LARGEST = 3.4e38  # what float32 holds


def type_name(kind: Any) -> str:
    """A type of the schema in words: `a number between 0 and 1 or null`."""
    if typing.get_origin(kind) is typing.Annotated:
        base, mark, *_ = typing.get_args(kind)
        if isinstance(mark, Range):
            return f"{type_name(base)} {mark}"
        if isinstance(mark, Pixels):
            return type_name(base)
        return f"a {mark.kind}" if isinstance(mark, ComponentOf) else "anything"
    if _is_union(kind):
        return " or ".join(type_name(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(repr(v) for v in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return f"a list of ({type_name(typing.get_args(kind)[0])})"
    if typing.get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "a map"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    words |= {list: "a list", dict: "a map", type(None): "null", Any: "anything"}
    return words[kind]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _suggest(name: object, known: Iterable[str]) -> str:
    known = list(known)
    lowered = {k.lower(): k for k in known}
    text = name.lower() if isinstance(name, str) and len(name) <= MAX_NAME else ""
    close = difflib.get_close_matches(text, lowered, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {lowered[close[0]]!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 30 else ""


def _suggest_component(name: object, kind: str, known: Iterable[str]) -> str:
    """The component that may be meant by an unknown name; of a network over a trunk, the trunk."""
    if kind == "model" and isinstance(name, str):
        for prefix in sorted(OVER_TRUNKS, key=len, reverse=True):  # one begins with another
            trunk = name.removeprefix(f"{prefix}_")
            if trunk != name:
                return _suggest(trunk, known).replace("mean '", f"mean '{prefix}_")
    return _suggest(name, known)


def _suggest_path(key: object) -> str:
    """The full path of a section's key that stands at the top of a recipe."""
    sections = {"Global": GlobalSettings, "DataLoader": DataLoaderSettings, "Infer": InferSettings}
    fits = (name for name, kind in sections.items() if key in {a.name for a in _fields(kind)})
    section = next(fits, None)
    return f"; did you mean '{section}.{key}'?" if section else ""


class Walker:
    """Converts values along their types and collects problems instead of raising."""

    def __init__(self, table: registry.Table) -> None:
        self.table = table
        self.problems: list[str] = []
        self.notes: list[str] = []

    def value(self, value: Any, kind: Any, path: str) -> Any:
        """`value` converted to `kind`, or None after a problem was noted."""
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            return self.annotated(value, kind, path)
        if _is_union(kind):
            return self.union(value, typing.get_args(kind), path)
        if dataclasses.is_dataclass(kind):
            return self.dataclass(value, kind, path)
        if kind is Any:
            return value
        if origin is typing.Literal:
            options = typing.get_args(kind)
            if any(value == o and type(value) is type(o) for o in options):
                return value
            return self.wrong(value, kind, path, _suggest(value, [str(o) for o in options]))
        if origin is list and isinstance(value, (list, tuple)):
            item = typing.get_args(kind)[0]
            return [self.value(v, item, f"{path}.{i}") for i, v in enumerate(value)]
        if origin is dict and isinstance(value, dict):
            item = typing.get_args(kind)[1]
            return {k: self.value(v, item, f"{path}.{cut(str(k), 200)}") for k, v in value.items()}
        converted = _scalar(value, kind) if origin is None else None
        if converted is None and value is not None:
            return self.wrong(value, kind, path)
        if value is None and kind is not type(None):
            return self.wrong(value, kind, path)
        return converted

    def wrong(self, value: Any, kind: Any, path: str, hint: str = "") -> None:
        self.problems.append(f"{path}: expected {type_name(kind)}, found {shown(value)}{hint}")

    def annotated(self, value: Any, kind: Any, path: str) -> Any:
        base, mark, *_ = typing.get_args(kind)
        if isinstance(mark, ComponentOf):
            return self.component(value, mark, path)
        if isinstance(mark, IgnoredKey):
            return value
        if isinstance(mark, Pixels):
            return self.value(value, base, path)
        if isinstance(mark, Only):
            if value not in (None, False, mark.value):
                self.problems.append(
                    f"{path}: {mark.reason}; found {shown(value)}, remove the key or set "
                    f"{mark.value!r}"
                )
            return mark.value
        trial = Walker(self.table)
        converted = trial.value(value, base, path)
        if trial.problems or (isinstance(mark, Range) and converted not in mark):
            return self.wrong(value, kind, path)
        return converted

    def union(self, value: Any, kinds: tuple[Any, ...], path: str) -> Any:
        if value is None and type(None) in kinds:
            return None
        kinds = tuple(k for k in kinds if k is not type(None))
        for kind in kinds:
            trial = Walker(self.table)
            converted = trial.value(value, kind, path)
            if not trial.problems:
                self.notes += trial.notes
                return converted
        # One candidate, or one that the value's shape points at: its own message says more.
        shaped = [k for k in kinds if _same_shape(value, k)]
        if len(kinds) == 1 or len(shaped) == 1:
            return self.value(value, (shaped or kinds)[0], path)
        return self.wrong(value, typing.Union[kinds], path)  # noqa: UP007

    def dataclass(self, value: Any, kind: type, path: str) -> Any:
        value = {} if value is None else value
        if not isinstance(value, dict):
            return self.wrong(value, kind, path)
        fields = _fields(kind)
        converted = self.arguments(value, fields, path, "" if path else "a recipe")
        return kind(**converted) if converted is not None else None

    def arguments(
        self,
        values: dict[str, Any],
        arguments: tuple[Argument, ...],
        path: str,
        owner: str,
        component: bool = False,
    ) -> dict[str, Any] | None:
        """The given values converted; None when a required one is missing or any is wrong."""
        known = {a.name: a for a in arguments}
        before = len(self.problems)
        converted = {}
        for key, value in values.items():
            place = f"{path}.{cut(str(key), 200)}" if path else cut(str(key), 200)
            if key not in known:
                what = "argument" if owner and owner != "a recipe" else "key"
                owner_text = owner or path.rpartition(".")[2]
                hint = _suggest_path(key) if not path else ""
                hint = hint or _suggest(key, [*known, "name"] if component else known)
                self.problems.append(f"{place}: {owner_text} has no {what} {shown(key)}{hint}")
                continue
            argument = known[key]
            filled_in = component and key in CONTEXT and not _allows_null(argument.type)
            if value is None and filled_in:
                continue  # as if it were left out
            converted[key] = self.value(value, argument.type, place)
            if is_ignored(argument.type) and value != argument.default and value is not None:
                self.notes.append(f"{place}: accepted, but has no effect here")
        for argument in arguments:
            missing = argument.name not in values and argument.default is REQUIRED
            if missing and argument.name not in CONTEXT:
                place = f"{path}.{argument.name}" if path else argument.name
                kind = type_name(argument.type)
                self.problems.append(f"{place}: is missing; {owner or path} needs {kind}")
        return converted if len(self.problems) == before else None

    def component(self, value: Any, mark: ComponentOf, path: str) -> Node | None:
        kind = mark.kind
        unnamed = isinstance(value, dict) and "name" not in value
        if unnamed and kind in DEFAULT_NAME and not self.one_key(value, kind):
            name, values = DEFAULT_NAME[kind], value
        else:
            try:
                name, values = take_apart(value, kind)
            except ConfigError as error:
                self.problems.append(f"{path}: {error}")
                return None
            path = f"{path}.{name}" if unnamed else path
        entry = self.find(name, kind, path)
        if entry is None:
            return None
        entry = entry.fix(dict(mark.fixed)) if mark.fixed else entry
        if not isinstance(values, dict):
            self.problems.append(f"{path}: expected the arguments of {name}, found {shown(values)}")
            return None
        if entry.stands_for:
            values = self.over_trunk(entry, values, path)
        extras, fields = None, ()
        if mark.extras:
            own = {a.name for a in entry.arguments}
            fields = tuple(field for field in _fields(mark.extras) if field.name not in own)
        names = {field.name for field in fields}
        given = self.arguments(values, (*entry.arguments, *fields), path, entry.name, True)
        if given is None:
            return None
        if mark.extras:
            extras = mark.extras(**{k: given.pop(k) for k in names if k in given})
        return Node(entry, MappingProxyType(given), path, extras)

    def over_trunk(self, entry: Entry, values: dict[str, Any], path: str) -> dict[str, Any]:
        """`values` with what the name of a network over a trunk stands for."""
        full = {**entry.stands_for, **values}
        for key, meant in entry.stands_for.items():
            given = full[key]
            if not isinstance(meant, dict) or not isinstance(given, dict):
                continue
            full[key] = {**meant, **given}
            if full[key]["name"] != meant["name"]:
                self.problems.append(
                    f"{path}.{key}.name: {entry.name} stands for {meant['name']}, found "
                    f"{shown(given['name'])}; leave it out, or name the network {entry.class_name}"
                )
        return full

    def one_key(self, value: dict[str, Any], kind: str) -> bool:
        """Whether a map is `X: {...}` with a component's name as its only key."""
        return len(value) == 1 and (kind, next(iter(value))) in self.table

    def find(self, name: Any, kind: str, path: str) -> Entry | None:
        entry = registry.find(kind, name, self.table)
        if entry is not None:
            return entry
        others = [k for k, n in self.table if n == name]
        known = registry.names(kind, self.table)
        hint = f"; it is a {others[0]}" if others else _suggest_component(name, kind, known)
        self.problems.append(f"{path}: there is no {kind} {shown(name)}{hint}")
        return None


def _fields(kind: type) -> tuple[Argument, ...]:
    """A dataclass's fields as arguments."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for item in dataclasses.fields(kind):
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        elif default is dataclasses.MISSING:
            default = REQUIRED
        found.append(Argument(item.name, hints[item.name], default))
    return tuple(found)


def _allows_null(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def is_ignored(kind: Any) -> bool:
    """Whether a key of this type is accepted without effect."""
    return any(isinstance(mark, IgnoredKey) for mark in typing.get_args(kind))


def _same_shape(value: Any, kind: Any) -> bool:
    """Whether a value is the YAML shape (list, map, number, text) that a type asks for."""
    if typing.get_origin(kind) is typing.Annotated:
        base, mark, *_ = typing.get_args(kind)
        if isinstance(mark, ComponentOf):
            return isinstance(value, dict)
        return _same_shape(value, base)
    if typing.get_origin(kind) is typing.Literal:
        return any(type(value) is type(option) for option in typing.get_args(kind))
    wanted = typing.get_origin(kind) or kind
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is wanted


def _scalar(value: Any, kind: Any) -> Any:
    """`value` as a bool, int, float or str; None if it is not one.

    YAML reads some numbers as text ("1.0/255.0", quoted "1e-4"): they become numbers where the
    schema asks for a number.
    """
    number: Any = value
    if kind is float and isinstance(value, str):
        top, slash, bottom = value.partition("/")
        try:
            number = float(top) / float(bottom) if slash else float(top)
        except (ValueError, ZeroDivisionError, OverflowError):
            return None
    if kind is int and isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else None
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else None
    if kind is float and isinstance(number, (int, float)):
        # The comparison is exact for integers that no float can hold, and false for NaN.
        return float(number) if abs(number) <= _LARGEST else None
    if kind is int and isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if kind in (int, str, list, dict) and isinstance(value, kind) else None
