"""A Paddle program and its weights as files: whether they are whole, and the program's input.

Paddle reads a file of weights that ends too early without an error, and the network then answers
with whatever lies in memory. The file is one tensor after another, each with a header that says how
long it is: `SerializeToStream` in Paddle's lod_tensor.cc.
Read before: files.py, which finds the two files.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import IO, Any

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.protobuf import parts, whole_numbers

# Bytes of a number, by VarType.Type of framework.proto
_SIZES = {
    0: 1,
    1: 2,
    2: 4,
    3: 8,
    4: 2,
    5: 4,
    6: 8,
    20: 1,
    21: 1,
    22: 2,
    23: 8,
    24: 16,
    32: 1,
    33: 1,
}
_DENSE = 7  # VarType.Type of a tensor, in a program's list of variables
_UNSIGNED = 1 << 63  # a negative number in protobuf is larger
_NO_PROGRAM = (ValueError, KeyError, TypeError, IndexError, StopIteration)
_LARGEST_DESCRIPTION = 4096  # of a tensor's type and shape: a few bytes


def check_weights(program: Path, weights: Path) -> None:
    """UserError if the file of weights is cut off, or holds another number of tensors."""
    try:
        found, expected = _tensors(weights), _parameters(program)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except (ValueError, struct.error) as error:
        raise UserError(
            f"{weights}: is cut off or damaged ({error}); copy the whole folder again, or export "
            "the network again"
        ) from None
    if expected is not None and found != expected:
        raise UserError(
            f"{weights}: holds {found} tensors, but {program.name} reads {expected}: it is cut off "
            "or from another export; copy the whole folder again, or export the network again"
        )


def _tensors(path: Path) -> int:
    """How many tensors a file holds; ValueError or struct.error if the last one is not whole."""
    count = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while (start := file.tell()) < size:
            version, levels = struct.unpack("<IQ", file.read(12))
            for _ in range(min(levels, size)):
                _skip(file, struct.unpack("<Q", file.read(8))[0], size)
            inner, length = struct.unpack("<Ii", file.read(8))
            if version or inner or not 0 <= length <= _LARGEST_DESCRIPTION:
                raise ValueError(f"at byte {start} begins no tensor")
            _skip(file, _data_bytes(file.read(length)), size)
            count += 1
    return count


def _skip(file: IO[bytes], count: int, size: int) -> None:
    if file.tell() + count > size:
        raise ValueError(f"byte {size} ends it, but its tensors reach to {file.tell() + count}")
    file.seek(count, os.SEEK_CUR)


def _data_bytes(description: bytes) -> int:
    """How long the numbers of a tensor are, by its TensorDesc: type (1) and dimensions (2)."""
    message = memoryview(description)
    (kind,), sizes = whole_numbers(message, 1), whole_numbers(message, 2)
    if kind not in _SIZES:
        raise ValueError(f"a tensor of the unknown type {kind}")
    return _SIZES[kind] * math.prod(sizes)


def paddle_input(program: Path) -> tuple[int, ...] | None:
    """The shape of the image that a program takes, -1 for what may vary; `None`: it says none."""
    data = program.read_bytes()
    try:
        if program.suffix == ".json":
            shapes = [_shape(op) for op in _operations(data) if op["#"] == "1.data"]
        else:
            message = memoryview(data)
            feeds = [op for op in parts(message, 1, 4) if bytes(parts(op, 3)[0]) == b"feed"]
            fed = {bytes(name) for op in feeds for name in parts(op, 2, 2)}
            inputs = [v for v in parts(message, 1, 3) if bytes(parts(v, 1)[0]) in fed]
            shapes = [whole_numbers(t, 2) for v in inputs for t in parts(v, 2, 3, 1)]
    except _NO_PROGRAM:
        return None
    free = [[size if 0 < size < _UNSIGNED else -1 for size in shape] for shape in shapes]
    return tuple(free[0]) if len(free) == 1 else None


def _shape(op: dict[str, Any]) -> list[int]:
    return next(item["AT"]["D"] for item in op["A"] if item["N"] == "shape")


def _operations(data: bytes) -> list[dict[str, Any]]:
    (block,) = json.loads(data)["program"]["regions"][0]["blocks"]
    return block["ops"]


def _parameters(program: Path) -> int | None:
    """How many tensors a program reads; `None` where its text is no program: Paddle says so."""
    data = program.read_bytes()
    try:
        if program.suffix == ".json":
            return sum(op["#"] == "p" for op in _operations(data))
        return sum(_is_weight(variable) for variable in parts(memoryview(data), 1, 3))
    except _NO_PROGRAM:
        return None


def _is_weight(variable: memoryview) -> bool:
    """Whether a VarDesc is persistable (3) and of a tensor's type (2, there 1)."""
    kinds = [kind for part in parts(variable, 2) for kind in whole_numbers(part, 1)]
    return any(whole_numbers(variable, 3)) and kinds == [_DENSE]
