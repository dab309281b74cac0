"""Every key of a foreign recipe, and what became of it: none is left out in silence.

    keys = Keys(tree)
    rate = keys.part("lr_scheduler").take("learning_rate", "Optimizer.lr.learning_rate", 0.01)
    keys.drop("to_static_training", "has no effect here")
    keys.lose("distill_loss", "write a DistillationModel")
    keys.ledger.lost  # also what nobody asked for

Read before: reader.py. Read next: dialects.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ppcls_lite.errors import ConfigError, shown

UNKNOWN = "there is no counterpart here"


@dataclass
class Ledger:
    """Key by key, as `path in the foreign file: text`.

    carried: where it stands here. dropped: why nothing is missing without it. lost: why it could
    not be carried, so that the recipe does something else without it.
    """

    carried: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Keys:
    """A map of a foreign recipe at `path`, from which a conversion takes key by key."""

    def __init__(self, tree: Any, path: str = "", ledger: Ledger | None = None) -> None:
        if not isinstance(tree, dict):
            raise ConfigError(f"{path or 'the file'}: expected a map, found {shown(tree)}")
        self.path, self.ledger = path, ledger if ledger is not None else Ledger()
        self._left = dict(tree)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def at(self, key: str) -> str:
        """The key's path in the file."""
        return f"{self.path}.{key}" if self.path else key

    def peek(self, key: str, default: Any = None) -> Any:
        """A value that stays to be taken."""
        return self._left.get(key, default)

    def take(self, key: str, to: str, default: Any = None) -> Any:
        """The value that is carried to `to` here, or the default of the foreign toolkit."""
        if key not in self._left:
            return default
        self.ledger.carried[self.at(key)] = to
        return self._left.pop(key)

    def number(self, key: str, to: str, default: float | None = None) -> Any:
        """`take` for a number; ConfigError for anything else."""
        value = self.take(key, to, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ConfigError(f"{self.at(key)}: expected a number, found {shown(value)}")
        return value

    def drop(self, key: str, why: str) -> None:
        """Leave a key out, without which nothing is missing."""
        if key in self._left:
            self.ledger.dropped[self.at(key)] = why
            del self._left[key]

    def lose(self, key: str, why: str = UNKNOWN) -> None:
        """Leave a key out that would have changed something."""
        if key in self._left:
            self.ledger.lost[self.at(key)] = why
            del self._left[key]

    def part(self, key: str) -> Keys:
        """The map below a key; an empty one where there is none. Its own keys are accounted for."""
        value = self._left.pop(key, None)
        return Keys({} if value is None else value, self.at(key), self.ledger)

    def parts(self, key: str) -> list[Keys]:
        """The maps in a list below a key; a lone map is a list of one."""
        value = self._left.pop(key, None)
        items = [] if value is None else value if isinstance(value, list) else [value]
        return [Keys(v, f"{self.at(key)}.{i}", self.ledger) for i, v in enumerate(items)]

    def left(self) -> tuple[str, ...]:
        """The keys that nobody has taken yet."""
        return tuple(self._left)

    def close(self, why: str = UNKNOWN) -> None:
        """Whatever is left cannot be carried."""
        for key in self.left():
            self.lose(key, why)
