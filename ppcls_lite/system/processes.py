"""Our own code in a child process: where it finds this package, and how it ends with its parent.

Read next: ppcls_lite/engine/ranks.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def environment(base: Mapping[str, str] = os.environ, **changes: str) -> dict[str, str]:
    """`base` with `changes`, and with this package first on the module path."""
    paths = [str(ROOT), base.get("PYTHONPATH", "")]
    found = {**base, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    found["PYTHONSAFEPATH"] = "1"  # a package of our name in the current folder is not ours
    return found | changes


def toolkit_command(arguments: Sequence[str]) -> list[str]:
    """The command that runs `ppcls-lite ARGUMENTS` of this package in a process of its own."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ppcls_lite.cli import main"
    return [sys.executable, "-c", f"{start}; sys.exit(main(sys.argv[1:]))", *arguments]


def end_with_parent(number: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Have Linux send this process the signal `number` when the thread that started it ends.

    It comes even while the process is stopped. `parent` is that process's number, where it is
    known: it may have ended before this call.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def tied(number: int = signal.SIGTERM, to_ctrl_c: bool = True) -> Callable[[], None] | None:
    """`preexec_fn` of a child that is to get the signal `number` when this process ends.

    to_ctrl_c: whether Ctrl-C, which a terminal sends to both, ends the child by itself; else this
    process, which stops by it, is the one that ends it.
    """
    if sys.platform != "linux":
        return None
    return functools.partial(_begin, number, os.getpid(), to_ctrl_c)


def _begin(number: int, parent: int, to_ctrl_c: bool) -> None:
    if not to_ctrl_c:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(number, parent)


@contextlib.contextmanager
def held_ctrl_c() -> Iterator[None]:
    """Processes that start within the block begin with Ctrl-C held back, until they `take_ctrl_c`.

    For those that import a lot before they can say what it means to them. Here it is held back
    until the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        if signal.SIGINT not in before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def take_ctrl_c() -> None:
    """End silently by a Ctrl-C, also one that was held back."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def watch_parent(parent: int) -> None:
    """End this process, at most a second late, when the process `parent` has ended.

    For a child that any thread may have started: threads end before their process does.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
