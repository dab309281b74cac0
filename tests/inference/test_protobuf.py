"""Messages read without protobuf, and bytes that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.onnx.metadata import read_metadata
from ppcls_lite.inference.onnx.protobuf import parts, whole_numbers

INNER = b"\x08\x96\x01\x12\x02hi"  # 1: 150, 2: "hi"
MESSAGE = memoryview(b"\x0a\x07" + INNER + b"\x15\0\0\0\0\x0a\x02\x08\x05")


def test_fields_by_number() -> None:
    assert [bytes(p) for p in parts(MESSAGE, 1)] == [INNER, b"\x08\x05"]
    assert [bytes(p) for p in parts(MESSAGE, 1, 2)] == [b"hi"]
    assert [whole_numbers(p, 1) for p in parts(MESSAGE, 1)] == [[150], [5]]
    with pytest.raises(ValueError, match="is a number"):
        parts(MESSAGE, 1, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 400_000,  # once a number of 2.8 million bits, built bit by bit
        b"\x0a\x05abc",
        b"\x08",
        b"\x0b\0",
        b"\x72\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10",  # metadata whose key is a number
        b"\x72\x03\x0a\x01\xff",  # ... is no UTF-8
    ],
)
def test_bytes_that_are_no_onnx_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.onnx: is not an ONNX file, or is damaged"):
        read_metadata(path)
