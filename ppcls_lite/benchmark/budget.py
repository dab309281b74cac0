"""A latency as people write it on a command line."""

from __future__ import annotations

import re


def read_milliseconds(words: str) -> float:
    """The number in "2ms", "2 ms" or "2"; ValueError if it is none, or not above zero."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms)?\s*", words)
    if not match or float(match[1]) <= 0:
        raise ValueError(f"expected milliseconds as in 2ms, found {words[:40]!r}")
    return float(match[1])
