"""Ctrl-C and SIGTERM as a question that the training loop asks between two steps.

Read next: trainer.py.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While the block runs, the first SIGINT or SIGTERM is noted instead of ending the program.

    `received` is the signal or None. A second Ctrl-C raises `KeyboardInterrupt` at once. Worker
    processes forked meanwhile ignore Ctrl-C (a terminal sends it to all of them, and the loop
    still needs their batches) and end on SIGTERM. Outside the main thread nothing is installed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for watched in WATCHED:
                self._previous[watched] = signal.signal(watched, self._note)
        return self

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
