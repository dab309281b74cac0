"""The errors that a user can cause; everything else is a bug and shows its traceback.

The command line prints a `UserError` as one message, without a traceback, and exits with its
`exit_code`. A message names the place, what was found, what was expected and what to do.
"""

from __future__ import annotations

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


class ImageError(UserError):
    """An image file that is missing, empty, truncated or in an unknown format."""
