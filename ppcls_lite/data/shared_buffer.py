"""Shared memory in which a worker hands its batches over.

A buffer is a memfd: memory with a file descriptor and no name. It needs no room in /dev/shm (64 MB
in a container, by default) and vanishes with its last user, however that one dies.
Read next: workers.py.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np

from ppcls_lite.data.fetch import Specs
from ppcls_lite.errors import UserError

ALIGNMENT = 64  # bytes; where an array may begin


class SharedBuffer:
    """The writer's side of a buffer of `size` bytes; it grows when a batch does not fit.

    `fd` is the file descriptor while the reader does not know it yet (it maps it and passes the
    mapping to `views`), else None. Whoever hands it over closes it.
    """

    def __init__(self) -> None:
        self.size = 0
        self.fd: int | None = None
        self._memory: mmap.mmap | None = None

    def allocate(self, specs: Specs) -> dict[str, np.ndarray]:
        """Arrays of these shapes and types in the buffer; earlier ones become invalid."""
        size = sum(_space(*spec) for spec in specs.values())
        if size > self.size:
            if self.fd is not None:
                os.close(self.fd)
            self.fd = _memfd()
            os.ftruncate(self.fd, size)
            self.size = size
            self._memory = mmap.mmap(self.fd, size)
        return views(self._memory, specs)


def views(memory: mmap.mmap, specs: Specs) -> dict[str, np.ndarray]:
    """Arrays that lie one after another in a buffer."""
    arrays, offset = {}, 0
    for name, (shape, dtype) in specs.items():
        arrays[name] = np.ndarray(shape, dtype, memory, offset)
        offset += _space(shape, dtype)
    return arrays


def _space(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def _memfd() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ppcls_lite", os.MFD_CLOEXEC)
    # A Python that was built for an old C library lacks the function, but the library has it.
    create = getattr(ctypes.CDLL(None, use_errno=True), "memfd_create", None)
    fd = create(b"ppcls_lite", 1) if create else -1
    if fd < 0:
        raise UserError(
            "this system offers no memfd (Linux 3.17 with glibc 2.27 or newer) for shared memory: "
            "set DataLoader.<split>.loader.use_shared_memory: False"
        )
    return fd
