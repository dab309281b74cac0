"""A `.pdiparams` file held against its own length, and against what its program reads.

Paddle reads a file that ends too early without an error, and the network then answers with whatever
lies in memory. The file is one tensor after another, each with a header that says how long it is:
`SerializeToStream` in paddle/fluid/framework/lod_tensor.cc (paddle/phi/core/framework).
Read before: files.py, which finds the two files.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import IO

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


def _parameters(program: Path) -> int | None:
    """How many tensors a program reads; `None` where its text is no program: Paddle says so."""
    data = program.read_bytes()
    try:
        if program.suffix == ".json":
            (block,) = json.loads(data)["program"]["regions"][0]["blocks"]
            return sum(op["#"] == "p" for op in block["ops"])
        return sum(_is_weight(variable) for variable in parts(memoryview(data), 1, 3))
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _is_weight(variable: memoryview) -> bool:
    """Whether a VarDesc is persistable (3) and of a tensor's type (2, there 1)."""
    kinds = [kind for part in parts(variable, 2) for kind in whole_numbers(part, 1)]
    return any(whole_numbers(variable, 3)) and kinds == [_DENSE]
