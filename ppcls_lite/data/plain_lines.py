"""Lines `path label` of a list, as arrays: where all of a block are as plain as most lists are.

Millions of lines take a second this way, and no Python object each. Plain are printable ASCII, one
delimiter and a label of digits; what is not plain is read line by line, with all of the messages.
Read before: image_list.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_DIGITS = 18  # of a label, at most: as many as an int64 always holds
_TAB, _END, _RETURN, _SPACE, _QUOTE = b'\t\n\r "'


class PlainLines(NamedTuple):
    """Lines of a block, without the blank ones."""

    paths: bytes  # one after another
    lengths: np.ndarray  # (n,) bytes of each path
    labels: np.ndarray  # (n,) int64
    places: np.ndarray  # (n,) which line of the block each is, from 0


def plain_lines(block: bytes, delimiter: str | None) -> PlainLines | None:
    """The lines of `block`, which are whole; None where one of them is not plain.

    delimiter: between path and label; None: the last space or tab.
    """
    if not block.isascii() or (delimiter is not None and len(delimiter) != 1):
        return None
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == _END)
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.append(0, ends[:-1] + 1)
    returns = (ends > starts) & (data[ends - 1] == _RETURN)
    known = block.count(b"\n") + block.count(b"\t") + np.count_nonzero(returns)
    if np.count_nonzero(data < _SPACE) != known:
        return None
    ends = ends - returns
    places = np.flatnonzero(ends > starts)
    starts, ends = starts[places], ends[places]
    if not len(places):
        return PlainLines(b"", places, places, places)
    blank = (data == _SPACE) | (data == _TAB)
    signs = np.flatnonzero(blank if delimiter is None else data == ord(delimiter))
    last = np.searchsorted(signs, ends) - 1
    if last[0] < 0:
        return None
    middles = signs[last]
    if (middles <= starts).any() or blank[starts].any() or blank[middles - 1].any():
        return None
    before = data[middles - 1]
    listed = delimiter is None and np.isin(before, np.frombuffer(b",;", np.uint8)).any()
    if listed or (data[starts] == _QUOTE).any():  # a CSV file
        return None
    labels = _numbers(data, middles + 1, ends)
    if labels is None:
        return None
    steps = np.zeros(len(data) + 1, np.int8)
    steps[starts], steps[middles] = 1, -1
    inside = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    return PlainLines(data[inside].tobytes(), middles - starts, labels, places)


def _numbers(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """The whole numbers that stand there; None if one is none, signed or too long."""
    lengths = ends - starts
    if lengths.min() < 1 or lengths.max() > _DIGITS:
        return None
    numbers = np.zeros(len(ends), np.int64)
    for place in range(lengths.max()):
        there = lengths > place
        digits = data[ends[there] - 1 - place] - ord("0")  # below "0" it wraps round to above 9
        if (digits > 9).any():
            return None
        numbers[there] += digits.astype(np.int64) * 10**place
    return numbers
