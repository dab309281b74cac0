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
from typing import TextIO

# Control characters, line separators, marks that turn the direction of writing, lone surrogates
_COMMANDS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
COLOURS = {"red": 31, "green": 32, "yellow": 33, "bold": 1}
_IN_LINES = re.compile(f"[{_COMMANDS}]")
_IN_A_LINE = re.compile(f"[\t\n{_COMMANDS}]")


def printable(text: str, lines: bool = False) -> str:
    """The text with such characters as escapes (`\\x1b`); `lines` may hold tabs and newlines."""
    pattern = _IN_LINES if lines else _IN_A_LINE
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def colourful(stream: TextIO) -> bool:
    """Whether colours may be written: to a terminal that knows them, unless NO_COLOR is set."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def painted(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in one of COLOURS where the stream (standard output) shows them, else as it is."""
    if not colourful(stream or sys.stdout):
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def escape_unknown_letters() -> None:
    """Let what a terminal cannot encode appear as an escape instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what standard output still holds nowhere: nobody reads it, or there is no room."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
