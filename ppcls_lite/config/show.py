"""What a user can look up: a recipe with its bases and overrides resolved, and all components."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.config import registry
from ppcls_lite.config.check import plugins_of
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump, load_config
from ppcls_lite.config.registry import REQUIRED
from ppcls_lite.config.walk import type_name
from ppcls_lite.errors import ConfigError


def resolved(path: str | Path, overrides: Sequence[str]) -> str:
    """The checked recipe as YAML, its notes as comments on top."""
    recipe = Recipe.of(load_config(path, overrides))
    notes = (*recipe.notes, *recipe.warnings)
    return "".join(f"# {note}\n" for note in notes) + dump(recipe.tree)


def plugins(path: str | Path, overrides: Sequence[str]) -> list[str]:
    """The files that a recipe's `Global.plugins` names."""
    return plugins_of(load_config(path, overrides))


def components(kind: str = "", plugins: Sequence[str | Path] = ()) -> str:
    """Every component of a kind (or of all kinds): arguments, types, defaults.

    Those of the files `plugins` are among them.
    """
    table = registry.entries(plugins)
    kinds = sorted({k for k, _ in table})
    if kind and kind not in kinds:
        close = difflib.get_close_matches(kind, kinds, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"--list {kind}: there is no such kind; kinds: {', '.join(kinds)}{hint}")
    blocks = []
    for (entry_kind, name), entry in sorted(table.items()):
        if kind and entry_kind != kind:
            continue
        lines = [f"{entry_kind} {name}: {entry.summary}".rstrip(": ")]
        for argument in entry.arguments:
            default = "required" if argument.default is REQUIRED else repr(argument.default)
            lines.append(f"    {argument.name}: {type_name(argument.type)} [{default}]")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
