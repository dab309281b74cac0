"""Reading and writing pickled data without trusting the file.

`.pdparams` and checkpoint files are pickles, and a pickle may ask the reader to call anything.
`load` accepts dicts, lists, tuples, sets, text, numbers, bytes and numpy arrays only. Even numpy's
own rebuilding functions are replaced by the small checked ones below, because numpy's dtype state
can describe memory layouts that crash the process.
Read next: files.py, ppcls_lite/models/weights/load.py.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file

_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6})")
_SCALARS = (str, int, float, bool, complex, bytes, bytearray, type(None), np.generic)


class UnsafePickleError(UserError):
    """A pickle that wants to call something, or holds an object that is not plain data."""


class _Dtype:
    """Stands for a `numpy.dtype` while the file is read; keeps the byte order, ignores the rest."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise UnsafePickleError(f"holds an array of type {code!r:.60}, not of plain numbers")
        self.code, self.order = code.lstrip("<>|="), code[0] if code[0] in "<>" else "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickleError("holds an array with a malformed type")
        if state[1] in "<>":
            self.order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


def _array(shape: Any, dtype: Any, fortran: bool, data: Any) -> np.ndarray:
    """A writable array in native byte order from the raw bytes of a pickle."""
    if isinstance(data, str):  # written by Python 2, read as latin-1
        data = data.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise UnsafePickleError("holds an array of objects, not of plain numbers")
    array = np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
    return array.astype(array.dtype.newbyteorder("="), order="K", copy=True)


class _Array:
    """Stands for a `numpy.ndarray` until its state has been read."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickleError("holds a malformed array")
        _, shape, dtype, fortran, data = state
        self.value = _array(shape, dtype, bool(fortran), data)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    return _array(shape, dtype, order == "F", data)


def _scalar(dtype: Any, data: Any) -> np.generic:
    return _array((1,), dtype, False, data)[0]


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 2-compatible pickles (protocol 2) spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickleError("holds malformed bytes")
    return text.encode("latin1")


class _Call:
    """A permitted function; the slots keep a file from attaching anything to it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("tries to change a function of this program")


def _permitted() -> dict[tuple[str, str], Any]:
    calls: dict[tuple[str, str], Any] = {
        ("numpy", "dtype"): _Call(_Dtype),
        ("numpy", "ndarray"): _Call(_reconstruct),  # only ever an argument of _reconstruct
        ("_codecs", "encode"): _Call(_latin1),
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
        calls[f"{core}.multiarray", "_reconstruct"] = _Call(_reconstruct)
        calls[f"{core}.multiarray", "scalar"] = _Call(_scalar)
        calls[f"{core}.numeric", "_frombuffer"] = _Call(_frombuffer)
    for builtins in ("builtins", "__builtin__"):  # Python 3 and Python 2
        calls[builtins, "tuple"] = _Call(tuple)
        calls[builtins, "bytes"] = _Call(lambda: b"")
        calls[builtins, "bytearray"] = _Call(bytearray)
        calls[builtins, "set"] = _Call(set)
        calls[builtins, "complex"] = _Call(complex)
    return calls


_PERMITTED = _permitted()


class _PlainUnpickler(pickle._Unpickler):
    """The Python one: in C, a damaged memo index makes the reader claim gigabytes of memory."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PERMITTED[module, name]
        except KeyError:
            raise UnsafePickleError(f"wants to call {module}.{name}") from None

    def get_extension(self, code: int) -> Any:
        raise UnsafePickleError(f"wants to call the registered extension {code}")


def _settle(value: Any, seen: dict[int, Any]) -> Any:
    """Put real arrays where the stand-ins are; shared objects stay shared."""
    if isinstance(value, np.ndarray) or type(value) in (str, int, float, bytes, bool):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        result: Any = value.value
    elif isinstance(value, dict):
        result = seen[id(value)] = value  # known before its members: a cycle ends here
        for key in value:
            value[key] = _settle(value[key], seen)
    elif isinstance(value, list):
        result = seen[id(value)] = value
        value[:] = [_settle(item, seen) for item in value]
    elif isinstance(value, tuple):
        result = tuple(_settle(item, seen) for item in value)
    elif isinstance(value, (*_SCALARS, set, frozenset)):
        result = value
    else:
        raise UnsafePickleError(f"holds a {type(value).__name__}, not plain data")
    seen[id(value)] = result
    return result


def load(path: str | Path) -> Any:
    """Read the pickled plain data in `path`.

    Returns dicts, lists, tuples, sets, numbers, text, bytes and numpy arrays (native byte order).
    Raises `UserError`: missing or unreadable file, truncated or foreign content, or
    (`UnsafePickleError`) a pickle that wants to call anything else, with the name of that thing.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, encoding="latin1").load()
        return _settle(value, {})
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} {error}. A file of weights or training state holds arrays and plain data "
            "only; this one is refused, because it could run code on this machine."
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror or error}") from None
    except (
        # What the unpickler raises on bytes that are no pickle, or only the beginning of one.
        *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError),
        *(AttributeError, OverflowError, struct.error, MemoryError, RecursionError, ImportError),
    ) as error:
        raise UserError(
            f"{path} is not a whole file of weights or training state "
            f"({path.stat().st_size} bytes; {type(error).__name__}: {error}). "
            "It may be truncated or of another format; copy or download it again."
        ) from None


def require_plain(value: Any) -> None:
    """Raise `TypeError` for anything that `load` would refuse, naming its place in `value`."""
    _require_plain(value, "data", set())


def _require_plain(value: Any, place: str, seen: set[int]) -> None:
    if isinstance(value, np.ndarray):
        if not _PLAIN_DTYPE.fullmatch(value.dtype.str):
            raise TypeError(f"{place}: an array of {value.dtype} cannot be saved")
    elif isinstance(value, dict | list | tuple | set | frozenset):
        if type(value) not in (dict, OrderedDict, list, tuple, set):
            raise TypeError(f"{place}: a {type(value).__name__} cannot be saved, only plain data")
        if id(value) in seen:
            return
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _require_plain(item, f"{place}[{key!r}]", seen)
            if isinstance(value, dict):
                _require_plain(key, f"{place}: key {key!r}", seen)
    elif not isinstance(value, _SCALARS):
        raise TypeError(f"{place}: a {type(value).__name__} cannot be saved, only plain data")


def dump_atomic(obj: Any, path: str | Path, protocol: int = 4) -> None:
    """Write plain data so that `load` can read it, whole or not at all (see `atomic_file`).

    Raises `TypeError` for anything that is not plain data (a Tensor, for example), before a byte
    is written, and `UserError` when the file cannot be written.
    """
    require_plain(obj)
    with atomic_file(path) as file:
        pickle.dump(obj, file, protocol=protocol)
