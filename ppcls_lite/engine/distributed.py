"""Training in several processes (ranks) that hold the same network and share every batch.

One mechanism for CPUs (gloo) and GPUs (NCCL): after the backward passes of an update, gradients and
the running statistics of batch normalisation are averaged over the ranks in one message, so that
all ranks go on with the same network, buffers included. Whichever rank evaluates, saves or
resumes, it is the same state. `World()` is the run in one process, where all of this is nothing.

A rank that fails leaves its message in the run's key-value store, and the others, which find the
connection closed, show it. Read next: meeting.py, trainer.py, ../system/cores.py.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import paddle
from paddle import Tensor, distributed, nn
from paddle.base import core

from ppcls_lite.engine.meeting import LostError, Meeting, StopError
from ppcls_lite.engine.origin import ABSENT, SHOWN
from ppcls_lite.errors import TryAgainError, UserError
from ppcls_lite.system import launchers
from ppcls_lite.system.interfaces import interface_to

logger = logging.getLogger("ppcls_lite")
Value = TypeVar("Value")

PATIENCE = 3.0  # seconds in which a failed rank's message arrives, or the launcher ends us
TIMEOUT = "PADDLE_PG_TIMEOUT"  # milliseconds for which the others wait for a rank
INTERFACE = "GLOO_SOCKET_IFNAME"
DEFAULT_TIMEOUT = 30 * 60 * 1000  # Paddle's for NCCL
STORE_ERRORS = (RuntimeError, OSError, ValueError)  # what Paddle raises for one that is gone
STATISTICS = ("_mean", "_variance")  # the ends of their names; for Paddle they are parameters
FAILURES, MESSAGE = "ppcls_lite/failures", "ppcls_lite/message"


def timeout() -> float:
    """Seconds for which the ranks wait for each other. Raises UserError."""
    text = os.environ.get(TIMEOUT) or str(DEFAULT_TIMEOUT)
    if not text.isdecimal() or int(text) < 1000:
        raise UserError(f"{TIMEOUT}={text}: expected milliseconds, 1000 at least; or unset it")
    return int(text) / 1000


def connect(stall_timeout: float = math.inf) -> World:
    """Join the other processes of this run: gloo if Paddle's device is a CPU, NCCL on GPUs.

    stall_timeout: seconds without a sign of life after which a rank counts as lost; as long as the
    ranks wait for a slow one, unless that is more.
    """
    size, patience = launchers.processes(), timeout()
    if size == 1:
        return World()
    first = os.environ.get("PADDLE_MASTER") or os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
    host = first.rpartition(":")[0]
    try:
        if not distributed.is_initialized():
            if paddle.get_device() == "cpu":
                os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
                _choose_interface(host)
            # Paddle lists flags there that differ from its defaults; it has set them itself.
            with contextlib.redirect_stderr(io.StringIO()):
                distributed.init_parallel_env()
        rank, store = distributed.get_rank(), core.create_or_get_global_tcp_store()
        meeting = Meeting(rank, size, store, host, patience, stall_timeout)
    except STORE_ERRORS as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        found = f"the ranks could not be connected, rank 0 at {first}: {text[-1]}"
        raise SilentRankError(_with_advice(found)) from error
    return World(rank, size, meeting)


def _choose_interface(host: str) -> None:
    """Let gloo listen where the machine of rank 0 can reach this one.

    Left alone it asks for the address of this machine's own name, which on many machines is none,
    or one that other machines cannot reach (127.0.1.1 on Debian).
    """
    if not os.environ.get(INTERFACE) and (name := interface_to(host)):
        os.environ[INTERFACE] = name


class LostRankError(UserError):
    """Another rank has ended while this one needed it, and has said why; the status is its own."""

    def __init__(self, message: str, exit_code: int = UserError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedError(LostRankError):
    """Another rank has failed, and all were told at a meeting: they can still exchange data."""


class SilentRankError(LostRankError, TryAgainError):
    """Another rank was killed, stopped or too slow: the same command may well succeed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, TryAgainError.exit_code)


class World:
    """This process's place among the `size` processes of a run; rank 0 writes the files."""

    def __init__(self, rank: int = 0, size: int = 1, meeting: Meeting | None = None) -> None:
        self.rank = rank
        self.size = size
        self._meeting = meeting

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        """The same one: a copied layer is in the same run."""
        return self

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes records, checkpoints and pictures."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Every rank's `value` (plain data and arrays), in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Value] = []
        with self._connected():
            distributed.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], Value]) -> Value:
        """What `make()` returns on rank 0, on all ranks; the others do not call it."""
        return self.gather(make() if self.is_main else None)[0]

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raise UserError on all ranks where one has other `facts` (plain data by name)."""
        first, *others = self.gather(dict(facts))
        for rank, found in enumerate(others, start=1):
            names = [n for n in {**first, **found} if first.get(n, ABSENT) != found.get(n, ABSENT)]
            if names:
                lines = [
                    f"{name}: {_shown(first.get(name, ABSENT))} on rank 0, "
                    f"{_shown(found.get(name, ABSENT))} on rank {rank}"
                    for name in names[:5]
                ]
                more = [f"and {len(names) - 5} more"] if len(names) > 5 else []
                raise UserError(
                    "the processes of this run were started differently, so they would not train "
                    f"one network: {'; '.join([*lines, *more])}. Give all of them the same "
                    "command, recipe, lists and versions"
                )

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks."""
        if self.size > 1:
            with self._connected(), paddle.no_grad():
                distributed.all_reduce(values)
        return values

    def share(self, layer: nn.Layer) -> None:
        """Give all ranks rank 0's parameters and buffers."""
        if self.size > 1:
            with self._connected(), paddle.no_grad():
                for tensor in layer.state_dict().values():
                    distributed.broadcast(tensor, 0)

    def average(self, layer: nn.Layer, *flags: bool) -> tuple[bool, ...]:
        """Make the gradients and running statistics of `layer` their means over the ranks.

        Returns for each of the `flags` whether it is set on any rank: they travel along.
        """
        if self.size == 1:
            return flags
        tensors = layer.state_dict()
        parameters = [p for p in tensors.values() if p.grad is not None]
        statistics = [t for name, t in tensors.items() if name.endswith(STATISTICS)]
        parts = [p.grad for p in parameters] + statistics
        with paddle.no_grad():
            own = paddle.to_tensor([float(flag) for flag in flags])
            message = paddle.concat([*(flatten(part) for part in parts), own])
            with self._connected():
                distributed.all_reduce(message)
            message /= self.size
            sizes = [part.size for part in parts]
            *means, shares = paddle.split(message, [*sizes, len(flags)])
            means = [m.reshape(p.shape).astype(p.dtype) for m, p in zip(means, parts)]
            for parameter, mean in zip(parameters, means):
                parameter.grad = mean
            for statistic, mean in zip(statistics, means[len(parameters) :]):
                statistic.set_value(mean)
            return tuple(bool(share > 0) for share in shares.tolist())

    def stop_together(self, error: Exception) -> bool:
        """Let all ranks end at their next meeting, there by a `StoppedError`, because of `error`.

        Returns whether all are here now and can still exchange data. To be called on each rank
        by whatever catches its error.
        """
        if self.size == 1 or isinstance(error, StoppedError):
            return True
        if self._meeting is None or isinstance(error, LostRankError):
            return False
        self._tell(error)
        try:
            self._meeting.meet(failed=True)
        except LostError as met:
            return isinstance(met, StopError)
        return False

    @contextlib.contextmanager
    def telling_failures(self) -> Iterator[None]:
        """Let the other ranks know the error that ends this one."""
        try:
            yield
        except LostRankError:
            raise
        except BaseException as error:
            if self.size > 1:
                self._tell(error)
            raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Meet before an exchange; turn an error of either into the reason for it."""
        try:
            self._meet()
            yield
        except (RuntimeError, OSError, LostError) as error:
            told = self._told()
            if isinstance(error, StopError):
                raise StoppedError(*told or [str(error)]) from None
            if told is None:
                raise SilentRankError(_with_advice(self._lost(error))) from None
            raise LostRankError(*told) from None

    def _meet(self) -> None:
        if self._meeting:
            self._meeting.meet()

    def _lost(self, error: BaseException) -> str:
        """What is known of the lost rank: after the transport's error the next meeting tells."""
        try:
            if not isinstance(error, LostError):
                self._meet()
        except LostError as found:
            error = found
        return str(error).strip().partition("\n")[0]

    def _tell(self, error: BaseException) -> None:
        name = f"rank {self.rank} on {socket.gethostname()}"
        text = f"{name} has stopped this run: {str(error) or type(error).__name__}"
        status = getattr(error, "exit_code", UserError.exit_code)

        def tell() -> None:
            with contextlib.suppress(*STORE_ERRORS):  # rank 0, which keeps it, may be gone
                store = core.create_or_get_global_tcp_store()
                store.set(MESSAGE, f"{status} {text}".encode())
                store.add(FAILURES, 1)

        _within(PATIENCE, tell)

    def _told(self) -> tuple[str, int] | None:
        """Message and exit status of the rank that failed; None if it left none in time."""

        def ask() -> tuple[str, int] | None:
            store, end = core.create_or_get_global_tcp_store(), time.monotonic() + PATIENCE
            while time.monotonic() < end:
                with contextlib.suppress(*STORE_ERRORS):
                    if store.add(FAILURES, 0):
                        status, _, text = bytes(store.get(MESSAGE)).decode().partition(" ")
                        return text, int(status)
                time.sleep(0.1)
            return None

        return _within(PATIENCE + 1, ask)


def _within(seconds: float, call: Callable[[], Value]) -> Value | None:
    """What `call` returns, None if it takes longer: a store that hangs answers no question."""
    answers: list[Value] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def flatten(part: Tensor) -> Tensor:
    """As one row of float32: mixed precision has gradients of several types."""
    return part.reshape([-1]).astype("float32")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 4]}..."


def _with_advice(found: str) -> str:
    folder = os.environ.get("PADDLE_LOG_DIR", "log")
    return (
        f"{found}. Look into {folder}/workerlog.* on every machine; the run continues from its "
        "last checkpoint with -o Global.checkpoints=RUN_FOLDER/latest. How long the ranks wait "
        f"for each other: {TIMEOUT}, in milliseconds (now {timeout():g} s); for one that gives no "
        "sign of life: Global.stall_timeout, in seconds"
    )
