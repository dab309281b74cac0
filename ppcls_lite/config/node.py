"""A component of a checked recipe: what to build, from which arguments, and where it stood.

Read before: registry.py. Read next: walk.py (which makes them), check.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ppcls_lite.config.registry import REQUIRED, Entry
from ppcls_lite.errors import ConfigError, UserError

Inside = Callable[["Node", Any], None]


@dataclasses.dataclass(frozen=True)
class Node:
    """A checked component: what to build, from which arguments, and where it stood."""

    entry: Entry
    arguments: Mapping[str, Any]
    path: str
    extras: Any = None

    def get(self, name: str) -> Any:
        """An argument's value: from the YAML, the zoo row, or the constructor's default.

        None where the component has no such argument.
        """
        if name in self.arguments:
            return self.arguments[name]
        if name in self.entry.fixed:
            return self.entry.fixed[name]
        return next((a.default for a in self.entry.arguments if a.name == name), None)

    def given(self, **arguments: Any) -> Node:
        """The same component with other arguments."""
        return dataclasses.replace(
            self, arguments=MappingProxyType({**self.arguments, **arguments})
        )

    def build(self, inside: Inside | None = None, **context: Any) -> Any:
        """Import the class and call it; `context` fills arguments that the YAML leaves out.

        Components among the arguments are built before, and handed to `inside` with their nodes.
        """
        values = dict(self.entry.fixed)
        known = {name for name, value in context.items() if value is not None}
        for argument in self.entry.arguments:
            if argument.name in self.arguments:
                value = self.arguments[argument.name]
                values[argument.name] = _build_all(value, inside, context)
            elif argument.name in known:
                values[argument.name] = context[argument.name]
            elif argument.default is REQUIRED:
                raise ConfigError(f"{self.path}: {self.entry.name} needs {argument.name!r}")
        try:
            return self.entry.load()(**values)
        except UserError as error:
            raise type(error)(f"{self.path}: {error}") from error


def _build_all(value: Any, inside: Inside | None, context: dict[str, Any]) -> Any:
    if isinstance(value, Node):
        built = value.build(inside, **context)
        if inside is not None:
            inside(value, built)
        return built
    if isinstance(value, list):
        return [_build_all(item, inside, context) for item in value]
    return value
