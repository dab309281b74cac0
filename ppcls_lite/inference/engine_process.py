"""An engine in a process of its own, so that inference and Python overlap.

Why: Paddle 3.3's `Predictor.run` holds Python's interpreter lock from its first to its last
instruction; for as long as a batch runs, no other thread of the process decodes an image or
answers a request (docs/serving.md names the check). Here the engine lives in a child process. The
calling thread waits without the lock.

How: there are a few *lanes*, each a thread with one pipe and one piece of nameless shared memory.
A call of `run` hands its batch to a free lane, which copies it into the memory, sends a number and
the shape, and waits for the outputs with that number. With two lanes, one batch is copied while
another runs. Only a lane touches its pipe, and an interrupt (Ctrl-C) reaches the main thread alone:
a call that is broken off leaves its lane to finish, and no later call gets its answer.

The child is started fresh ("spawn"), because a fork of a process with threads, or with Paddle in
it, may hang. It ends when it is told to, when the pipes close, or with the parent; if it does not
answer within a limit, it is killed, which ends every wait. Read next: pipeline.py,
ppcls_lite/serve/batcher.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from multiprocessing import connection, util
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import Engine
from ppcls_lite.system.processes import held_ctrl_c, watch_parent

LANES = 2
LIMIT = 600.0  # seconds for one batch, and for loading the network
_PATIENCE = 5.0  # seconds for the child to leave by itself
_ATTRIBUTES = ("name", "precision", "threads", "device", "mkldnn")  # of the engine, if it has them
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]

Batch = Sequence[np.ndarray] | np.ndarray


class _End(NamedTuple):
    """The child's end of a lane."""

    pipe: connection.Connection
    memory: ctypes.Array[ctypes.c_float]


class _Request(NamedTuple):
    inputs: Batch | None  # none: what the engine says of itself when it has been loaded
    answer: Future[Any]


class _Lane(threading.Thread):
    """Takes requests from a queue, one after another, and has the child answer them.

    Attributes:
        since: when the request that is at work was begun (monotonic); `None` between requests.
    """

    def __init__(self, end: _End, requests: queue.SimpleQueue[_Request | None]) -> None:
        super().__init__(name="ppcls_lite lane", daemon=True)
        self._end = end
        self._requests = requests
        self._number = 0
        self.since: float | None = None

    def run(self) -> None:
        """Until `None` comes instead of a request."""
        while (request := self._requests.get()) is not None:
            if not request.answer.set_running_or_notify_cancel():
                continue  # the caller was interrupted
            self.since = time.monotonic()
            try:
                request.answer.set_result(self._exchange(request.inputs))
            except Exception as error:  # belongs to the caller, whatever it is
                request.answer.set_exception(error)
            self.since = None
            del request
        with contextlib.suppress(OSError):
            self._end.pipe.send(None)
        self._end.pipe.close()

    def _exchange(self, inputs: Batch | None) -> Any:
        self._number += 1
        if inputs is not None:
            shape = (len(inputs), *np.shape(inputs[0]))
            fits = math.prod(shape) <= len(self._end.memory)
            if fits:
                for place, image in zip(_view(self._end, shape), inputs):
                    np.copyto(place, image)
            batch = shape if fits else np.asarray(inputs, np.float32)
            self._end.pipe.send((self._number, batch))
        number, answer = self._end.pipe.recv()
        if number != self._number:
            raise EOFError(f"answer {number} to request {self._number}")
        return answer


class EngineProcess:
    """Runs what `make` returns in a child process; `run` may be called from several threads.

    The engine's `name`, `precision`, `threads`, ... can be read here too. A program that makes one
    needs the usual `if __name__ == "__main__":` around its main part.

    Args:
        make: makes the engine; must be picklable, e.g. `functools.partial(PaddleEngine, folder)`.
        numbers: how many numbers of a batch fit into the shared memory, N * C * H * W; a larger
            batch travels through the pipe, which is slower.
        limit: seconds for one batch, and for `make`; a child that needs longer is killed.

    Attributes:
        limit: may be set at any time.

    Raises:
        UserError: what `make` raised, or the process died.
    """

    def __init__(self, make: Callable[[], Engine], numbers: int, limit: float = LIMIT) -> None:
        context = multiprocessing.get_context("spawn")
        self._owner = os.getpid()
        self.limit = limit
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lanes: list[_Lane] = []
        theirs: list[_End] = []
        for _ in range(LANES):
            ours, end = context.Pipe()
            memory = RawArray(ctypes.c_float, numbers)
            self._lanes.append(_Lane(_End(ours, memory), self._requests))
            theirs.append(_End(end, memory))
        self._process = context.Process(
            target=_work, args=(make, theirs, self._owner), name="ppcls_lite engine", daemon=True
        )
        with held_ctrl_c():  # the child never takes it
            self._process.start()
        for end in theirs:
            end.pipe.close()  # so that the child's death is the end of the pipe
        # A program that forgets `close`: this runs before multiprocessing waits for its children.
        self._finish = util.Finalize(self, _end, (self._requests, self._process), exitpriority=10)
        try:
            self._lanes[0].start()
            self.attributes: dict[str, Any] = self._ask(None)
        except BaseException:
            self._process.kill()
            self.close()
            raise
        for lane in self._lanes[1:]:
            lane.start()

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__.get("attributes", {})
        if name in attributes:
            return attributes[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs, and is this process's child."""
        return os.getpid() == self._owner and self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def run(self, inputs: Batch) -> list[np.ndarray]:
        """Run one batch: (N, C, H, W), or N images (C, H, W), to the outputs of the network.

        Raises:
            UserError: what the engine raised, its process died or was closed, or this process is
                a fork of the one that made it.
        """
        if os.getpid() != self._owner:
            raise UserError(
                f"the engine belongs to process {self._owner}, and this is a fork of it "
                f"({os.getpid()}): make a Predictor in each process, after it was started"
            )
        return self._ask(inputs)

    def close(self) -> None:
        """End the process; a batch that still runs has a few seconds, then it is lost."""
        if os.getpid() == self._owner:
            self._finish()

    def _ask(self, inputs: Batch | None) -> Any:
        request = _Request(inputs, Future())
        if not self._finish.still_active():
            raise UserError("the engine was closed: make another Predictor")
        self._requests.put(request)
        try:
            answer = self._wait(request.answer)
        except (EOFError, OSError):
            raise self._death() from None
        finally:
            request.answer.cancel()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _wait(self, answer: Future[Any]) -> Any:
        """The answer; whenever the oldest request at work is over its limit, the child is killed,
        so this ends even where many wait for a lane."""
        while True:
            try:
                return answer.result(self.limit)
            except FutureTimeoutError:
                now = time.monotonic()
                begun = [since for lane in self._lanes if (since := lane.since) is not None]
                if not begun or now - min(begun) >= self.limit or not self._process.is_alive():
                    self._process.kill()
                    self._process.join(_PATIENCE)
                    raise UserError(
                        f"the engine's process gave no answer within {self.limit:g} seconds and "
                        "was ended: take a smaller batch"
                    ) from None

    def _death(self) -> UserError:
        self._process.join(_PATIENCE)
        self._process.kill()  # if it lives, it no longer keeps to the protocol
        code = self._process.exitcode
        reason = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        return UserError(
            f"the engine's process died ({reason}); signal 9 usually means that the machine "
            "ran out of memory: take a smaller batch"
        )


def _end(requests: queue.SimpleQueue[_Request | None], process: BaseProcess) -> None:
    """Have the lanes close their pipes and the child leave; kill it if it does not."""
    for _ in range(LANES):
        requests.put(None)
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join(_PATIENCE)
    with contextlib.suppress(queue.Empty):
        while True:
            if (request := requests.get_nowait()) is not None:
                request.answer.set_exception(EOFError("closed"))


def _view(end: _End, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    return np.frombuffer(end.memory, np.float32, size).reshape(shape)


def _work(make: Callable[[], Engine], ends: list[_End], parent: int) -> None:
    """The child: make the engine, then answer lane by lane until all of them have ended."""
    watch_parent(parent)
    # Told to end, the parent finishes its work and then says so here. A signal to the whole group
    # must not come first: it is blocked, and ignored again after Paddle's import took the handlers.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _ignore_signals()
    try:
        engine = make()
    except Exception as error:  # shown by the parent, whatever it is
        ends[0].pipe.send((1, _portable(error)))
        return
    _ignore_signals()
    found = {name: getattr(engine, name) for name in _ATTRIBUTES if hasattr(engine, name)}
    ends[0].pipe.send((1, found))
    lanes = {end.pipe: end for end in ends}
    while lanes:
        for pipe in connection.wait(list(lanes)):
            try:
                request = pipe.recv()
                if request is None:
                    del lanes[pipe]
                    continue
                number, batch = request
                if isinstance(batch, tuple):
                    batch = _view(lanes[pipe], batch)
                pipe.send((number, _answer(engine, batch)))
            except (EOFError, OSError):
                lanes.pop(pipe, None)


def _answer(engine: Engine, batch: np.ndarray) -> Any:
    try:
        return engine.run(batch)
    except Exception as error:
        return _portable(error)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _portable(error: Exception) -> Exception:
    """A user's error itself; else a RuntimeError, because engines' C++ errors cannot travel."""
    known = isinstance(error, UserError)
    return error if known else RuntimeError(f"{type(error).__name__}: {error}")
