"""Ctrl-C, SIGTERM, SIGUSR1 and the end of the allowed time, as a question asked between two steps.

Schedulers announce the end of a job by a signal: Kubernetes by SIGTERM, Slurm by the one that
`--signal` names, usually SIGUSR1. Read next: trainer.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from ppcls_lite.errors import TRY_AGAIN, Terminated
from ppcls_lite.system.imports import after_import

Handler = Callable[[int, FrameType | None], None]
WATCHED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Reason(NamedTuple):
    """Why a run stopped early, for the log and the caller; empty if it did not.

    The exit code is 130 after Ctrl-C and 143 after SIGTERM, as shells report them, else 75.
    is_pause: who asked for it goes on with the run, or leaves it, and says so itself.
    """

    text: str = ""
    exit_code: int = 0
    received: int | None = None
    is_pause: bool = False


def termination() -> contextlib.AbstractContextManager[None]:
    """Within the block SIGTERM raises `Terminated`, so that a command tidies up as by Ctrl-C.

    Outside the main thread nothing is installed.
    """
    return _raising(signal.SIGTERM, Terminated)


def interruption() -> contextlib.AbstractContextManager[None]:
    """Within the block Ctrl-C raises `KeyboardInterrupt`, and so does the block.

    Without it C++ code between, an import or Paddle's backward pass, makes another exception of it.
    Outside the main thread, and where Ctrl-C does anything else, nothing is installed.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return contextlib.nullcontext()
    return _raising(signal.SIGINT, KeyboardInterrupt)


@contextlib.contextmanager
def _raising(number: signal.Signals, kind: type[KeyboardInterrupt]) -> Iterator[None]:
    """Within the block a signal raises `kind`, and so does the block, whatever comes of it."""
    noted = False

    def raised(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        raise kind

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, raised)
    try:
        # Paddle installs a handler of its own, that prints a stack and dies
        with after_import("paddle", lambda: _put_back(number, raised)):
            yield
    except Exception:
        if noted:
            raise kind from None
        raise
    finally:
        if signal.getsignal(number) is raised:
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _put_back(number: signal.Signals, handler: Handler) -> None:
    """Install the handler again where Python still knows it, and another took its place in C++."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(number) is handler:
        signal.signal(number, handler)


class StopSignals:
    """While the block runs, the first SIGINT, SIGTERM or SIGUSR1 is noted instead of ending it all.

    True once there is a reason to stop: `received` is the signal or None; `max_minutes` after the
    block was entered the time is over. A second Ctrl-C raises `KeyboardInterrupt` at once. Worker
    processes forked meanwhile ignore Ctrl-C (a terminal sends it to all of them, and the loop
    still needs their batches) and end on SIGTERM. Outside the main thread nothing is installed.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.received: signal.Signals | None = None
        self.asked: str | None = None
        self._is_pause = False
        self.max_minutes = max_minutes
        self._entered = time.monotonic()
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.received is not None or self.asked is not None or self.is_over_time

    def ask(self, why: str, is_pause: bool = False) -> None:
        """Stop, as if a signal had come."""
        self.asked, self._is_pause = why, is_pause

    @property
    def is_over_time(self) -> bool:
        """Whether `max_minutes` have passed."""
        passed = (time.monotonic() - self._entered) / 60
        return self.max_minutes is not None and passed >= self.max_minutes

    def why(self) -> Reason:
        """The reason to stop, `Reason()` if there is none."""
        if self.received is not None:
            shell = self.received in (signal.SIGINT, signal.SIGTERM)
            code = 128 + self.received if shell else TRY_AGAIN
            return Reason(self.received.name, int(code), int(self.received))
        if self.asked is not None:
            return Reason(self.asked, is_pause=self._is_pause)
        if self.is_over_time:
            return Reason(f"Global.max_minutes ({self.max_minutes:g})", TRY_AGAIN)
        return Reason()

    def __enter__(self) -> StopSignals:
        self._entered = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for watched in WATCHED:
                self._previous[watched] = signal.signal(watched, self._note)
        return self

    def keep_status(self) -> None:
        """From the block's end on, ignore SIGTERM: this process only has to exit with its status.

        For one rank of several: the launcher sends SIGTERM to all as soon as the first has ended.
        """
        self._previous = {n: h for n, h in self._previous.items() if n != signal.SIGTERM}
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for watched, handler in self._previous.items():
            signal.signal(watched, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that was forked while we watched
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
