"""Ctrl-C and SIGTERM end a command in one line, whatever code between makes of the exception."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ppcls_lite.cli import guarded
from ppcls_lite.engine.signals import interruption, termination
from ppcls_lite.errors import Terminated, UserError
from ppcls_lite.system.processes import environment


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """What is started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def through_cpp(number: int, kind: type[Exception]) -> None:
    """As an extension's import or Paddle's backward pass do: one exception becomes another."""
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        raise kind("initialization failed") from None


@pytest.mark.parametrize("kind", [ImportError, OSError, RuntimeError, UserError])
def test_what_becomes_of_an_interrupt_is_an_interrupt(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert guarded(lambda argv: through_cpp(signal.SIGINT, kind), []) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(Terminated), termination():
        through_cpp(signal.SIGTERM, kind)
    assert signal.getsignal(signal.SIGINT) is before


def test_paddles_import_does_not_take_it() -> None:
    """It installs a handler in C++ that prints a stack, and dies without tidying up."""
    code = (
        "import os, signal\n"
        "from ppcls_lite.cli import guarded\n"
        "def run(argv):\n"
        "    import paddle\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "raise SystemExit(guarded(run, []))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (143, "terminated\n")


def test_other_exceptions_are_what_they_are() -> None:
    with pytest.raises(ImportError, match="no such module"), interruption():
        raise ImportError("no such module")


def test_what_else_handles_ctrl_c_stays() -> None:
    noted = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        with interruption():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted == [signal.SIGINT]
