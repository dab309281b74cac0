"""Worker processes that make batches.

Why not paddle.io.DataLoader? Measured on Paddle 3.3.1: a killed worker is noticed after five
seconds, its message or an error's does not reach the training loop; epochs leave open files behind,
and leaving one early its processes and files in /dev/shm; persistent workers wait half a second
between epochs. Here:

- Workers are forked once, with the first batch, and live until the pool is closed.
- A task goes to the workers in turn and results are taken in the same order, so there is no queue
  between them: each worker has one socket and PREFETCH buffers of its own.
- Batches travel in memfds, memory with a file descriptor and no name: it needs no room in /dev/shm
  (64 MB in a container, by default) and vanishes with its last user, however that one dies.
- The parent waits for the next result and for the death of any worker at the same time.
- Workers leave signals to the parent, which may want to save a checkpoint first, and end when they
  are left alone.

Read before: fetch.py. Read next: loader.py.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import itertools
import logging
import mmap
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, reduction, util
from typing import Any, TypeVar

import cv2
import numpy as np

from ppcls_lite.data.fetch import Allocate, Fetched, Fetcher, Specs, new_arrays
from ppcls_lite.errors import TryAgainError, UserError
from ppcls_lite.system.processes import watch_parent

log = logging.getLogger("ppcls_lite")
Result = TypeVar("Result")

PATIENCE = 60.0  # seconds without a batch before the log says so
KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # exit codes of a worker that did nothing wrong
PREFETCH = 2  # batches that each worker may be ahead
ALIGNMENT = 64  # bytes; where an array in shared memory may begin
IGNORED_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")


class WorkerPool:
    """`num_workers` processes that run `fetcher` on tasks.

    `share_memory` False sends the batches through the sockets: slower, but needs no memfd.
    """

    def __init__(self, fetcher: Fetcher, num_workers: int, share_memory: bool = True) -> None:
        self._run = 0
        self._workers: list[_Worker] = []
        # Runs before multiprocessing waits for its children, and when the pool is collected.
        self._finalizer = util.Finalize(self, _kill, (self._workers,), exitpriority=100)
        context = multiprocessing.get_context("fork")
        for number in range(num_workers):
            ours, theirs = context.Pipe()
            held = [worker.connection for worker in self._workers] + [ours]
            process = context.Process(
                target=_work,
                args=(theirs, held, fetcher, share_memory, os.getpid()),
                name=f"ppcls_lite-data-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def run(
        self, tasks: Iterable[tuple[int, Any]], convert: Callable[[Fetched], Result]
    ) -> Iterator[Result]:
        """`convert(batch)` of every task (step, keys), in order.

        `convert` copies what it keeps: a batch's buffer is used again. Raises UserError where a
        worker died, or met a mistake of the user's; TryAgainError where it was killed from outside.
        """
        self._run += 1  # results of a run that was left early are thrown away
        run = self._run
        tasks = iter(tasks)
        waiting: collections.deque[_Worker] = collections.deque()

        def give(worker: _Worker) -> None:
            for step, keys in itertools.islice(tasks, 1):
                self._send(worker, (run, step, keys))
                waiting.append(worker)

        try:
            for _ in range(PREFETCH):
                for worker in self._workers:
                    give(worker)
            while waiting:
                if run != self._run:
                    raise RuntimeError("a new epoch was begun before this one had ended")
                worker = waiting.popleft()
                result = convert(self._receive(worker))
                give(worker)
                yield result
        except GeneratorExit:  # the epoch was left between two batches
            raise
        except BaseException:  # Ctrl-C may have come in the middle of a message
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether the processes have ended."""
        return not self._workers

    def close(self) -> None:
        """End the processes; they have nothing to save."""
        self._finalizer()

    def _send(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            self._raise_death(worker)

    def _receive(self, worker: _Worker) -> Fetched:
        sentinels = {w.process.sentinel: w for w in self._workers}
        started = time.monotonic()
        while True:
            ready = connection.wait([worker.connection, *sentinels], PATIENCE)
            if worker.connection in ready:
                try:
                    run, result = worker.take()
                except (EOFError, OSError):
                    self._raise_death(worker)
                if run != self._run:
                    continue
                if isinstance(result, BaseException):
                    raise result
                return result
            if ready:
                self._raise_death(sentinels[ready[0]])
            log.warning(
                "no batch for %.0f s: reading images is slow or stuck (network drive?)",
                time.monotonic() - started,
            )

    def _raise_death(self, worker: _Worker) -> None:
        worker.process.join(5)
        code, pid = worker.process.exitcode, worker.process.pid
        self.close()
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += (
                "; usually the machine or container ran out of memory: use fewer "
                "DataLoader.<split>.loader.num_workers or a smaller batch_size"
            )
        kind = TryAgainError if code in KILLED else UserError
        raise kind(f"a data worker (process {pid}) {how}")


class _Worker:
    """The parent's side of one worker."""

    def __init__(self, process: Any, conn: connection.Connection) -> None:
        self.process = process
        self.connection = conn
        self._buffers: dict[int, mmap.mmap] = {}

    def take(self) -> tuple[int, Fetched | BaseException]:
        """The next result, with the number of the run that it belongs to."""
        run, result, slot, new_size, specs = self.connection.recv()
        if new_size:
            fd = reduction.recv_handle(self.connection)
            self._buffers[slot] = mmap.mmap(fd, new_size)
            os.close(fd)
        if specs is not None:
            result.arrays = views(self._buffers[slot], specs)
        return run, result


def _work(
    conn: connection.Connection,
    inherited: list[connection.Connection],
    fetcher: Fetcher,
    share_memory: bool,
    parent: int,
) -> None:
    """The life of a worker."""
    for other in inherited:
        other.close()
    for name in IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    watch_parent(parent)
    gc.freeze()  # a collection would touch, and so copy, all memory shared with the parent
    cv2.setNumThreads(0)  # the processes are the parallelism
    buffers = [SharedBuffer() for _ in range(PREFETCH)]
    for count in itertools.count():
        slot = count % PREFETCH
        try:
            run, step, keys = conn.recv()
            if share_memory:
                result = _attempt(fetcher, step, keys, buffers[slot].allocate)
                _send_shared(conn, run, result, slot, buffers[slot])
            else:
                conn.send((run, _attempt(fetcher, step, keys, new_arrays), slot, 0, None))
        except (EOFError, OSError):
            return  # the parent closed its side


def _send_shared(
    conn: connection.Connection, run: int, result: Any, slot: int, buffer: SharedBuffer
) -> None:
    """Send a result without its arrays, and the buffer they lie in if the parent lacks it."""
    specs = None
    if isinstance(result, Fetched):
        specs = {name: (array.shape, array.dtype) for name, array in result.arrays.items()}
        result.arrays = {}
    new_size = 0 if buffer.fd is None else buffer.size
    conn.send((run, result, slot, new_size, specs))
    if buffer.fd is not None:
        reduction.send_handle(conn, buffer.fd, os.getppid())
        os.close(buffer.fd)
        buffer.fd = None


def _attempt(fetcher: Fetcher, step: int, keys: Any, allocate: Allocate) -> Fetched | BaseException:
    try:
        return fetcher(step, keys, allocate)
    except UserError as error:
        return error
    except Exception:  # a bug: the parent shows where in the worker it happened
        return RuntimeError(f"in a data worker:\n{traceback.format_exc()}")


def _kill(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.connection.close()
    workers.clear()


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
