"""Plain data goes in and out unchanged; a file that wants more is refused; writes are atomic."""

from __future__ import annotations

import errno
import os
import pickle
import random
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.system import safe_pickle

ARRAY = np.arange(12, dtype="float32").reshape(3, 4)
SHARED_LIST = ["x"]
PLAIN = {
    "float32": ARRAY,
    "fortran": np.asfortranarray(ARRAY),
    "big endian": ARRAY.astype(">f8"),
    "half": ARRAY.astype("float16"),
    "empty": np.zeros((0, 3)),
    "scalar array": np.array(7, "int64"),
    "text": np.array(["ab", "c"]),
    "truth": np.array([True, False]),
    "numpy scalar": np.float32(3.5),
    "mixed": (1, 2.5, None, True, b"x", bytearray(b"q"), "é", {1, 2}, 1j, -(10**30)),
    "ordered": OrderedDict(x=[1, {"y": (2,)}]),
    "shared": [SHARED_LIST, SHARED_LIST],
    3: {},
}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_survives(tmp_path: Path, protocol: int) -> None:
    safe_pickle.dump_atomic(PLAIN, tmp_path / "x", protocol=protocol)
    got = safe_pickle.load(tmp_path / "x")
    assert list(got) == list(PLAIN)
    for key, value in PLAIN.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(got[key], value)
            assert got[key].flags.writeable and got[key].dtype.isnative, key
        else:
            assert got[key] == value and type(got[key]) is type(value), key
    assert got["shared"][0] is got["shared"][1]
    assert names(tmp_path) == ["x"]


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Evil(os.system, "touch /tmp/never"), r"wants to call (posix|nt)\.system"),
        (Evil(eval, "1"), r"wants to call builtins\.eval"),
        (Evil(getattr, "", "join"), r"wants to call builtins\.getattr"),
        ({"w": [Evil(exec, "1")]}, r"wants to call builtins\.exec"),
        (Path("x"), r"wants to call pathlib"),
        (np.random.default_rng(0), r"wants to call numpy\.random"),
        (np.array([object()], dtype=object), r"type 'O8'"),
        (np.zeros(2, dtype=[("a", "i4")]), r"type 'V4'"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(value))
    with pytest.raises(safe_pickle.UnsafePickleError, match=message) as caught:
        safe_pickle.load(tmp_path / "x.pdparams")
    assert "x.pdparams" in str(caught.value) and "could run code" in str(caught.value)


def test_a_file_cannot_change_the_permitted_functions(tmp_path: Path) -> None:
    # GLOBAL numpy.dtype, then BUILD with {"code": "O"} as its state.
    (tmp_path / "x").write_bytes(b"cnumpy\ndtype\n}Vcode\nVO\nsb.")
    with pytest.raises(safe_pickle.UnsafePickleError, match="change a function"):
        safe_pickle.load(tmp_path / "x")


def test_damaged_files_raise_nothing_but_user_errors(tmp_path: Path) -> None:
    whole = pickle.dumps({k: v for k, v in PLAIN.items() if k != "mixed"})
    chance, path, refused = random.Random(0), tmp_path / "x", 0
    damaged = [whole[:cut] for cut in range(0, len(whole), 11)]
    for _ in range(500):
        copy = bytearray(whole)
        copy[chance.randrange(len(copy))] = chance.randrange(256)
        damaged.append(bytes(copy))
    for content in damaged:
        path.write_bytes(content)
        try:
            safe_pickle.load(path)
        except UserError as error:
            refused += str(path) in str(error)
    assert refused > len(whole) // 11


def test_a_huge_memo_index_does_not_claim_memory(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff.")
    tracemalloc.start()
    assert safe_pickle.load(tmp_path / "x") is None
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


MIB = 1 << 20


def doubled(levels: int) -> bytes:
    """A tuple of twice the same tuple of twice the same ...: its hash and text take for ever."""
    return b"\x80\x02)" + (pickle.DUP + pickle.TUPLE2) * levels


COSTLY = {
    "a text of 4 GB": b"\x80\x04X\xff\xff\xff\xff.",
    "bytes of 1 TB": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b".",
    "a frame of 1 TB": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b".",
    "a bytearray of 4 GB": b"\x80\x05\x96" + (1 << 32).to_bytes(8, "little") + b".",
    "a bytearray by its size": b"c__builtin__\nbytearray\n(I4294967295\ntR.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "nested tuples as a key": b"\x80\x02}" + doubled(99)[2:] + b"K\x01s.",
    "nested tuples as keys": b"\x80\x02}(" + doubled(99)[2:] + b"K\x01u.",
    "nested tuples in a new map": b"\x80\x02(" + doubled(99)[2:] + b"K\x01d.",
    "nested tuples in a set": b"\x80\x04\x8f(" + doubled(99)[2:] + b"\x90.",
    "nested tuples in a frozen set": b"\x80\x04(" + doubled(99)[2:] + b"\x91.",
    "nested tuples in a called set": b"c__builtin__\nset\n(" + doubled(99)[2:] + b"\x85tR.",
    "nested tuples as a type": b"cnumpy\ndtype\n(" + doubled(99)[2:] + b"tR.",
    "keys of one hash": b"\x80\x02}("
    + b"".join(pickle.dumps(i * (2**61 - 1), 2)[2:-1] + b"N" for i in range(1, 20_000))
    + b"u.",
    "the same list again and again": b"\x80\x02c__builtin__\ntuple\nq\x00]q\x01("
    + b"N" * 100_000
    + b"e0"
    + b"h\x00h\x01\x85R0" * 20_000
    + b"N.",
    "the same attributes again and again": b"\x80\x02}q\x00("
    + b"".join(b"U\x06%06dN" % i for i in range(20_000))
    + b"u0ccollections\nOrderedDict\n)R"
    + b"h\x00b" * 50_000
    + b".",
}


@pytest.mark.parametrize("content", COSTLY.values(), ids=COSTLY)
def test_a_small_file_costs_little(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            safe_pickle.load(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB + 50 * len(content)
    finally:
        tracemalloc.stop()


def test_files_that_are_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        safe_pickle.load(tmp_path / "missing")
    (tmp_path / "html").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"not a whole file .*\(16 bytes"):
        safe_pickle.load(tmp_path / "html")
    with pytest.raises(UserError, match="could not be read"):
        safe_pickle.load(tmp_path)


@pytest.mark.parametrize("value", [object(), {"a": [Path()]}, np.array([None]), OrderedDict])
def test_only_plain_data_is_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be saved"):
        safe_pickle.dump_atomic(value, tmp_path / "x")
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latest.pdstate"
    safe_pickle.dump_atomic({"step": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"latest\.pdstate could not be written: No space left"):
        safe_pickle.dump_atomic({"step": 2}, path)
    assert safe_pickle.load(path) == {"step": 1}
    assert names(tmp_path) == ["latest.pdstate"]


def test_missing_folders_are_made_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    safe_pickle.dump_atomic([1], tmp_path / "a" / "b" / "x")
    assert safe_pickle.load(tmp_path / "a" / "b" / "x") == [1]
    with pytest.raises(UserError, match="could not be written"):
        safe_pickle.dump_atomic([1], tmp_path / "a" / "b" / "x" / "y")
