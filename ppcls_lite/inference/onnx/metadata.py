"""The metadata of an ONNX file, read without the `onnx` package, which servers do not need.

An ONNX file is one protobuf message; its fields 14 (`metadata_props`) are messages of a key (field
1) and a value (field 2). https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ppcls_lite.errors import UserError

QUANTIZATION_KEY = "quantization"  # the report of deploy/quantize.py, as JSON
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5  # protobuf's wire types


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value pairs of a file; UserError if it cannot be read or is not ONNX."""
    try:
        model = memoryview(path.read_bytes())
        entries = [dict(_fields(entry)) for n, entry in _fields(model) if n == _METADATA_PROPS]
        texts = [(bytes(e.get(_KEY, b"")), bytes(e.get(_VALUE, b""))) for e in entries]
        return {key.decode("utf-8"): value.decode("utf-8") for key, value in texts}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: is not an ONNX file, or is damaged") from error


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of bytes; the others are skipped."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _varint(message, position)
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
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
