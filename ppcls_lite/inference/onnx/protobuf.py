"""The fields of a protobuf message, read without the `protobuf` package, which servers do not need.

https://protobuf.dev/programming-guides/encoding. Read next: metadata.py (of ONNX files).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5  # protobuf's wire types
_LONGEST = 10  # bytes of a number: 64 bits, 7 a byte


def parts(message: memoryview, *numbers: int) -> list[memoryview]:
    """The contents of the fields that `numbers` lead to, from message to message within.

    Raises ValueError for bytes that are no message.
    """
    found = [message]
    for wanted in numbers:
        found = [part for outer in found for number, part in _fields(outer) if number == wanted]
    if not all(isinstance(part, memoryview) for part in found):
        raise ValueError(f"field {numbers} is a number")
    return found


def whole_numbers(message: memoryview, wanted: int) -> list[int]:
    """The values of the field `wanted`, if it is of whole numbers; raises as `parts` does."""
    return [n for number, n in _fields(message) if number == wanted and isinstance(n, int)]


def _fields(message: memoryview | int) -> Iterator[tuple[int, Any]]:
    """Number and value of each field that is a whole number or bytes; the others are skipped."""
    if isinstance(message, int):
        raise ValueError("a number in the place of a message")
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value
        elif kind == _BYTES:
            size, position = _varint(message, position)
            if position + size > len(message):
                raise ValueError("a field ends behind the message")
            yield number, message[position : position + size]
            position += size
        elif kind in (_FIXED_64, _FIXED_32):
            position += 8 if kind == _FIXED_64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(message[position : position + _LONGEST]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, position + shift + 1
    raise ValueError("a number has no end")
