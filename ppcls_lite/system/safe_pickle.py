"""Reading and writing pickled data without trusting the file.

`.pdparams` and checkpoint files are pickles, and a pickle may ask the reader to call anything.
`load` accepts dicts, lists, tuples, sets, text, numbers, bytes and numpy arrays only. Even numpy's
own rebuilding functions are replaced by the small checked ones below, because numpy's dtype state
can describe memory layouts that crash the process. Nor may a small file cost much memory or time:
no size is believed that exceeds the file's, keys are text or numbers (the hash of nested tuples
takes for ever, large integers are made to collide), and what calls copy is counted.
Read next: files.py, ppcls_lite/models/weights/load.py.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file

_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6})")
_SCALARS = (str, int, float, bool, complex, bytes, bytearray, type(None), np.generic)


_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, np.ndarray)
_KEYS = (str, bytes, int, float, bool, type(None))
LARGEST_KEY = 1 << 60  # a larger integer shares its hash with a smaller one
FACTOR, SMALL = 8, 1 << 20  # of the file's size, and bytes beside it, that calls may copy


class UnsafePickleError(UserError):
    """A pickle that wants to call something, or holds an object that is not plain data."""


class _Dtype:
    """Stands for a `numpy.dtype` while the file is read; keeps the byte order, ignores the rest."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            found = repr(code[:60]) if isinstance(code, str) else f"a {type(code).__name__}"
            raise UnsafePickleError(f"holds an array of type {found}, not of plain numbers")
        self.code, self.order = code.lstrip("<>|="), code[0] if code[0] in "<>" else "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickleError("holds an array with a malformed type")
        if state[1] in "<>":
            self.order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Work:
    """Counts the bytes and items that calls copy; a file may ask for them again and again."""

    def __init__(self, size: int) -> None:
        self.left = FACTOR * size + SMALL

    def spend(self, *values: Any) -> None:
        """Account for going once through `values`, as far as they have a length."""
        self.left -= sum(len(value) for value in values if isinstance(value, _SIZED))
        if self.left < 0:
            raise UnsafePickleError("wants the same data copied again and again")

    def array(self, shape: Any, dtype: Any, fortran: bool, data: Any) -> np.ndarray:
        """A writable array in native byte order from the raw bytes of a pickle."""
        self.spend(data)
        if isinstance(data, str):  # written by Python 2, read as latin-1
            data = data.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise UnsafePickleError("holds an array of objects, not of plain numbers")
        array = np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
        return array.astype(array.dtype.newbyteorder("="), order="K", copy=True)

    def permitted(self) -> dict[tuple[str, str], _Call]:
        """What a file may call, by module and name."""

        def frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
            return self.array(shape, dtype, order == "F", data)

        def ordered(items: Any = ()) -> OrderedDict[Any, Any]:
            return OrderedDict((_key(key), value) for key, value in items)

        functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "dtype"): _Dtype,
            ("numpy", "ndarray"): _no_array,
            ("_codecs", "encode"): _latin1,
            ("collections", "OrderedDict"): ordered,
        }
        for core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
            functions[f"{core}.multiarray", "_reconstruct"] = lambda *_: _Array(self)
            functions[f"{core}.multiarray", "scalar"] = lambda dtype, data: self.array(
                (1,), dtype, False, data
            )[0]
            functions[f"{core}.numeric", "_frombuffer"] = frombuffer
        for builtins in ("builtins", "__builtin__"):  # Python 3 and Python 2
            functions[builtins, "tuple"] = tuple
            functions[builtins, "bytes"] = lambda: b""
            functions[builtins, "bytearray"] = _bytearray
            functions[builtins, "set"] = lambda items=(): {_key(item) for item in items}
            functions[builtins, "complex"] = complex
        return {name: _Call(function, self) for name, function in functions.items()}


class _Array:
    """Stands for a `numpy.ndarray` until its state has been read."""

    __slots__ = ("value", "work")

    def __init__(self, work: _Work) -> None:
        self.work = work

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickleError("holds a malformed array")
        _, shape, dtype, fortran, data = state
        self.value = self.work.array(shape, dtype, bool(fortran), data)


def _no_array(*_: Any) -> Any:
    """`numpy.ndarray` is only ever an argument of `_reconstruct`."""
    raise UnsafePickleError("wants to call numpy.ndarray")


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 2-compatible pickles (protocol 2) spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickleError("holds malformed bytes")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: Any = "latin-1") -> bytearray:
    """From bytes, or text that spells them; never from a number, which would be a size."""
    if isinstance(data, bytes):
        return bytearray(data)
    if not isinstance(data, str) or encoding != "latin-1":
        raise UnsafePickleError("holds malformed bytes")
    return bytearray(data, "latin-1")


def _key(value: Any) -> Any:
    """A key of a map or member of a set whose hash costs little and is its own."""
    if type(value) not in _KEYS or (type(value) is int and abs(value) > LARGEST_KEY):
        raise UnsafePickleError(f"has a {type(value).__name__} as a key, not text or a number")
    return value


class _Call:
    """A permitted function; the slots keep a file from attaching anything to it."""

    __slots__ = ("_function", "_work")

    def __init__(self, function: Callable[..., Any], work: _Work) -> None:
        self._function, self._work = function, work

    def __call__(self, *args: Any) -> Any:
        self._work.spend(*args)
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("tries to change a function of this program")


class _Bounded:
    """A file from which no more can be asked than it has: the reader would claim the memory."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > SMALL and count > self._size - self._file.tell():
            raise EOFError(f"{count:,} more bytes are announced")
        return self._file.read(count)


class _PlainUnpickler(pickle._Unpickler):
    """The Python one: in C, a damaged memo index makes the reader claim gigabytes of memory."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(_Bounded(file, size), encoding="latin1")
        self._work = _Work(size)
        self._permitted = self._work.permitted()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._permitted[module, name]
        except KeyError:
            raise UnsafePickleError(f"wants to call {module}.{name}") from None

    def get_extension(self, code: int) -> Any:
        raise UnsafePickleError(f"wants to call the registered extension {code}")

    def _fill(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise UnsafePickleError(f"puts items into a {type(self.stack[-1]).__name__}")
        self.stack[-1].update((_key(key), value) for key, value in _pairs(items))

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self) -> None:
        self._fill(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def _additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise UnsafePickleError(f"puts items into a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(_key(item) for item in items)

    def _frozenset(self) -> None:
        self.append(frozenset(_key(item) for item in self.pop_mark()))

    def _bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    def _build(self) -> None:
        self._work.spend(self.stack[-1])  # is gone through where it is a dict
        self.load_build()

    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = _setitems
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.ADDITEMS[0]] = _additems
    dispatch[pickle.FROZENSET[0]] = _frozenset
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray8
    dispatch[pickle.BUILD[0]] = _build


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise pickle.UnpicklingError("a key without a value")
    return zip(items[::2], items[1::2])


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
            value = _PlainUnpickler(file, path.stat().st_size).load()
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
            if isinstance(value, dict) and type(key) not in _KEYS:
                raise TypeError(f"{place}: a {type(key).__name__} cannot be saved as a key")
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
