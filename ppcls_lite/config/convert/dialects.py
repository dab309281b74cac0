"""Whose a foreign recipe is, and its conversion. Read before: keys.py. Read next: paddleseg.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.convert import paddledetection, paddleseg
from ppcls_lite.config.convert.keys import Keys, Ledger
from ppcls_lite.config.convert.reader import read_foreign
from ppcls_lite.config.file import dump
from ppcls_lite.errors import ConfigError

SHOWN = 40  # lines of each kind in a report


@dataclass(frozen=True)
class Dialect:
    """A toolkit's language.

    signs: keys of which a recipe of it has all. convert: takes the keys of a tree and gives a
    recipe of ours; what it leaves is lost.
    """

    name: str
    signs: tuple[str, ...]
    convert: Callable[[Keys], dict[str, Any]]


DIALECTS = (
    Dialect("PaddleSeg", ("model", "train_dataset"), paddleseg.convert),
    Dialect("PaddleDetection", ("architecture",), paddledetection.convert),
)


@dataclass(frozen=True)
class Conversion:
    """recipe: ours. ledger: what became of each key. problems: what `check` says of the recipe."""

    dialect: str
    recipe: dict[str, Any]
    ledger: Ledger
    problems: str | None

    def text(self, source: str) -> str:
        """The recipe as YAML, with what it lacks in its head."""
        head = [f"Converted from {source} ({self.dialect}) by `ppcls-lite convert-config`."]
        head += [f"Not carried: {key}: {why}" for key, why in self.ledger.lost.items()]
        return "".join(f"# {line}\n" for line in head) + dump(self.recipe)

    def report(self) -> str:
        """What became of each key, bounded."""
        kinds: dict[str, Mapping[str, str]] = {
            "carried": self.ledger.carried,
            "nothing is missing without": self.ledger.dropped,
            "could not be carried": self.ledger.lost,
        }
        lines = []
        for head, found in kinds.items():
            if found:
                sign = "->" if head == "carried" else ":"
                lines.append(f"{head} ({len(found)}):")
                lines += [f"  {key} {sign} {text}" for key, text in [*found.items()][:SHOWN]]
                lines += [f"  and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        lines += [f"note: {note}" for note in self.ledger.notes]
        if self.problems:
            lines.append(f"to be corrected before it runs: {self.problems}")
        return "\n".join(lines)


def convert(path: str | Path) -> Conversion:
    """Convert a file. Raises ConfigError where it cannot be read or no toolkit is recognised."""
    tree = read_foreign(path)
    dialect = next((d for d in DIALECTS if all(sign in tree for sign in d.signs)), None)
    if dialect is None:
        known = "; ".join(f"{d.name} has {' and '.join(d.signs)}" for d in DIALECTS)
        hint = "it has the sections of a recipe and runs as it is" if "Arch" in tree else known
        found = ", ".join(map(str, [*tree][:10])) or "nothing"
        raise ConfigError(f"{path}: it is not known whose recipe this is: {hint}; found {found}")
    keys = Keys(tree)
    recipe = dialect.convert(keys)
    keys.close()
    problems = None
    try:
        Recipe.of(recipe)
    except ConfigError as error:
        problems = str(error)
    return Conversion(dialect.name, recipe, keys.ledger, problems)
