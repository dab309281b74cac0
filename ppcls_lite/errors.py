"""The errors that a user can cause; everything else is a bug and shows its traceback.

The command line prints a `UserError` as one message, without a traceback, and exits with its
`exit_code`. A message names the place, what was found, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TRY_AGAIN = 75  # sysexits.h calls it EX_TEMPFAIL: try again later


class UserError(ValueError):
    """A mistake in the user's input: data, files, arguments, environment."""

    exit_code = 1


class ConfigError(UserError):
    """One or several mistakes in a YAML file or an override, found before any work starts."""

    exit_code = 2


class TryAgainError(UserError):
    """Nobody's mistake: a process was killed. The same command may well succeed."""

    exit_code = TRY_AGAIN


class Terminated(KeyboardInterrupt):
    """SIGTERM, where a command takes it as it takes Ctrl-C."""

    exit_code = 143  # as shells report it


class ImageError(UserError):
    """An image file that is missing, empty, truncated or in an unknown format."""


def shown(value: Any, limit: int = 120) -> str:
    """A value as a message shows it: its `repr`, cut where it is long; it may be megabytes."""
    long = isinstance(value, str) and len(value) > limit
    return cut(repr(value[:limit]) + "..." if long else repr(value), limit)


def cut(text: str, limit: int) -> str:
    """A text with at most `limit` letters; the middle is left out."""
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def joined(problems: Sequence[str], separator: str = "\n", limit: int = 1800) -> str:
    """Several mistakes as one message of at most `limit` letters, and how many there are more."""
    lines: list[str] = []
    left = limit
    for problem in problems:
        line = cut(problem, limit // 2)
        left -= len(line) + len(separator)
        if left < 0:
            break
        lines.append(line)
    if len(lines) < len(problems):
        lines.append(f"and {len(problems) - len(lines):,} more")
    return separator.join(lines)
