"""An engine in a process of its own, so that inference and Python overlap.

Why: Paddle 3.3's `Predictor.run` holds Python's interpreter lock for as long as a batch runs, so
no other thread of the process decodes an image or answers a request (docs/serving.md names the
check). To wait on the pipe of a child process releases it.

How: there are a few *lanes*, each one pipe and one piece of nameless shared memory. A call of
`run` takes a free lane, copies its batch into the memory, sends the shape and waits for the
outputs. With two lanes, one batch is copied while another runs. The child is started fresh
("spawn"), because a fork of a process with threads, or with Paddle in it, may hang. It ends when
the pipes close, whatever ended the parent.
Read next: pipeline.py, ppcls_lite/serve/batcher.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import Engine

LANES = 2
_PATIENCE = 5.0  # seconds for the child to leave by itself
_ATTRIBUTES = ("name", "precision", "threads", "device", "mkldnn")  # of the engine, if it has them


class _Lane(NamedTuple):
    pipe: connection.Connection
    memory: ctypes.Array[ctypes.c_float]


class EngineProcess:
    """Runs what `make` returns in a child process; `run` may be called from several threads.

    The engine's `name`, `precision`, `threads`, ... can be read here too. A program that makes one
    needs the usual `if __name__ == "__main__":` around its main part.

    Args:
        make: makes the engine; must be picklable, e.g. `functools.partial(PaddleEngine, folder)`.
        numbers: how many numbers of a batch fit into the shared memory, N * C * H * W; a larger
            batch travels through the pipe, which is slower.
    """

    def __init__(self, make: Callable[[], Engine], numbers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._lanes: list[_Lane] = []
        theirs: list[_Lane] = []
        for _ in range(LANES):
            ours, end = context.Pipe()
            memory = RawArray(ctypes.c_float, numbers)
            self._lanes.append(_Lane(ours, memory))
            theirs.append(_Lane(end, memory))
        self._process = context.Process(
            target=_work, args=(make, theirs), name="ppcls_lite engine", daemon=True
        )
        self._process.start()
        for lane in theirs:
            lane.pipe.close()  # so that the child's death is the end of the pipe
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        try:
            self.attributes: dict[str, Any] = self._answer(self._lanes[0])
        except BaseException:
            self.close()
            raise
        for lane in self._lanes:
            self._free.put(lane)

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
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def run(self, inputs: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """One batch, (N, C, H, W) or N images (C, H, W), to the outputs of the network.

        Raises what the engine raised; UserError if its process died.
        """
        shape = (len(inputs), *np.shape(inputs[0]))
        lane = self._free.get()
        try:
            fits = math.prod(shape) <= len(lane.memory)
            if fits:
                for place, image in zip(_view(lane, shape), inputs):
                    np.copyto(place, image)
            with contextlib.suppress(BrokenPipeError):  # `_answer` tells why
                lane.pipe.send(shape if fits else np.asarray(inputs, np.float32))
            return self._answer(lane)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """End the process; a batch that still runs is lost."""
        for lane in self._lanes:
            lane.pipe.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self, lane: _Lane) -> Any:
        try:
            answer = lane.pipe.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            code = self._process.exitcode
            reason = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            raise UserError(
                f"the engine's process died ({reason}); signal 9 usually means that the machine "
                "ran out of memory: take a smaller batch"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _view(lane: _Lane, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    return np.frombuffer(lane.memory, np.float32, size).reshape(shape)


def _work(make: Callable[[], Engine], lanes: list[_Lane]) -> None:
    """The child: make the engine, then answer lane by lane until all pipes are closed."""
    for name in ("SIGINT", "SIGTERM"):  # the parent finishes its work and then closes the pipes
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    engine: Engine | None = None
    with contextlib.suppress(BrokenPipeError):
        try:
            engine = make()
        except Exception as error:  # shown by the parent, whatever it is
            lanes[0].pipe.send(_portable(error))
            return
        lanes[0].pipe.send({k: getattr(engine, k) for k in _ATTRIBUTES if hasattr(engine, k)})
        open_lanes = {lane.pipe: lane for lane in lanes}
        while open_lanes:
            for pipe in connection.wait(list(open_lanes)):
                try:
                    batch = pipe.recv()
                except (EOFError, OSError):
                    del open_lanes[pipe]
                    continue
                if isinstance(batch, tuple):
                    batch = _view(open_lanes[pipe], batch)
                try:
                    pipe.send(engine.run(batch))
                except BrokenPipeError:
                    raise
                except Exception as error:
                    pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """A user's error itself; else a RuntimeError, because engines' C++ errors cannot travel."""
    known = isinstance(error, UserError)
    return error if known else RuntimeError(f"{type(error).__name__}: {error}")
