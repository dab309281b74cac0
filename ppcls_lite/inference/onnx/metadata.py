"""The metadata of an ONNX file, read without the `onnx` package, which servers do not need.

An ONNX file is one protobuf message; its fields 14 (`metadata_props`) are messages of a key (field
1) and a value (field 2). https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
Read next: protobuf.py.
"""

from __future__ import annotations

from pathlib import Path

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.protobuf import parts, whole_numbers

QUANTIZATION_KEY = "quantization"  # the report of deploy/quantize.py, as JSON
_OPERATIONS = (7, 1, 4)  # graph, node, op_type
_INT8 = (b"Quantize", b"Dequantize", b"QLinear", b"DynamicQuantize", b"ConvInteger", b"MatMulInt")
_UNSIGNED = 1 << 63  # a negative number in protobuf is larger
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value pairs of a file; UserError if it cannot be read or is not ONNX."""
    try:
        model = memoryview(path.read_bytes())
        entries = [(_last(e, _KEY), _last(e, _VALUE)) for e in parts(model, _METADATA_PROPS)]
        return dict(entries)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not an ONNX file, or is damaged") from error


def is_quantised(path: Path) -> bool:
    """Whether a file's graph computes with int8; UserError if it cannot be read or is not ONNX."""
    try:
        kinds = parts(memoryview(path.read_bytes()), *_OPERATIONS)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not an ONNX file, or is damaged") from error
    return any(bytes(kind).startswith(_INT8) for kind in kinds)


def onnx_input(path: Path) -> tuple[int, ...] | None:
    """The shape of the image that a file takes, -1 for what may vary; `None`: it says none."""
    try:
        graph = memoryview(path.read_bytes())
        weights = {bytes(name) for name in parts(graph, 7, 5, 8)}
        inputs = [i for i in parts(graph, 7, 11) if bytes(parts(i, 1)[0]) not in weights]
        shapes = [[whole_numbers(dim, 1) for dim in parts(i, 2, 1, 2, 1)] for i in inputs]
    except (OSError, ValueError, IndexError):
        return None  # the engine says what is wrong
    if len(shapes) != 1:
        return None
    return tuple(size[0] if size and 0 < size[0] < _UNSIGNED else -1 for size in shapes[0])


def _last(entry: memoryview, number: int) -> str:
    """The text in a field of an entry; where it stands twice, the last counts."""
    return bytes([memoryview(b""), *parts(entry, number)][-1]).decode("utf-8")
