"""Ctrl-C and SIGTERM end a command in one line, whatever code between makes of the exception."""

from __future__ import annotations

import os
import signal

import pytest

from ppcls_lite.cli import guarded
from ppcls_lite.engine.signals import interruption, termination
from ppcls_lite.errors import Terminated, UserError


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
