"""Text of strangers on a terminal, and terminals that take less than all text."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_lite.inference.cli.output import table_lines
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.system.terminal import painted, printable

ROOT = Path(__file__).resolve().parents[2]


def test_what_commands_a_terminal_is_written_out() -> None:
    assert printable("Vögel 猫 a\\b") == "Vögel 猫 a\\b"
    assert printable("\x1b[2J\x9b1m\r\n\t\x7f") == r"\x1b[2J\x9b1m\r\n\t\x7f"
    assert printable("a\u202eb\u2028") == r"a\u202eb\u2028"
    assert printable(os.fsdecode(b"a\xff")) == r"a\udcff"
    assert printable("one\n\ttwo\x1b", lines=True) == "one\n\ttwo\\x1b"


def test_names_of_files_and_labels_stay_in_their_line() -> None:
    evil = "x\n\x1b]52;c;aGk=\x07"
    result = {"file": evil, "class_ids": [1], "scores": [0.5], "label_names": [evil]}
    lines = [*table_lines(result, Topk()), *table_lines({"file": evil, "error": evil}, Topk())]
    assert len(lines) == 2
    assert all(line.isprintable() and line.count(r"\x1b]52") == 2 for line in lines)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **environment}
    command = [sys.executable, "-c", f"from ppcls_lite.cli import guarded, main; {code}"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)


def test_a_terminal_that_cannot_encode_a_name() -> None:
    code = "import sys; sys.exit(guarded(lambda _: print('V\\xf6gel \\u732b'), []))"
    done = python(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, b"V\\xf6gel \\u732b\n"), done.stderr
    done = python("main(['predict', '--model', '\\udcff\\x1b', '--input', '\\u732b'])", LC_ALL="C")
    assert done.stderr.startswith(b"error: --input") and b"\x1b" not in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_message() -> None:
    code = (
        "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1);"
        "sys.exit(guarded(lambda _: print('x' * 100), []))"
    )
    done = python(code)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"error:" in done.stderr and b"No space left on device" in done.stderr


class Stream(io.StringIO):
    """A stream that is a terminal, or none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert painted("bad", "red", Stream(True)) == "\x1b[31mbad\x1b[0m"
    assert painted("bad", "red", Stream(False)) == "bad"
    monkeypatch.setenv("TERM", "dumb")
    assert painted("bad", "red", Stream(True)) == "bad"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("bad", "red", Stream(True)) == "bad"
