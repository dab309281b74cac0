"""Text from files on its way to a terminal: what would command the terminal is written out.

Names of files and labels come from anybody. An escape sequence in one can rewrite the screen or
set the clipboard, a newline can forge a line of a table, and a terminal need not know all letters.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys

# Control characters, line separators, marks that turn the direction of writing, lone surrogates
_COMMANDS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(f"[{_COMMANDS}]")
_IN_A_LINE = re.compile(f"[\t\n{_COMMANDS}]")


def printable(text: str, lines: bool = False) -> str:
    """The text with such characters as escapes (`\\x1b`); `lines` may hold tabs and newlines."""
    pattern = _IN_LINES if lines else _IN_A_LINE
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def escape_unknown_letters() -> None:
    """Let what a terminal cannot encode appear as an escape instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what standard output still holds nowhere: nobody reads it, or there is no room."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
