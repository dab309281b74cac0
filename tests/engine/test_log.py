"""Log lines: what a name of a file or class holds does not command the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_lite.engine import log


def test_escape_sequences_are_written_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = log.setup(tmp_path)
    try:
        logger.warning("a \x1b]52;c;YQ==\x07.jpg and \u202e\r.png are bad:\n\tboth")
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    shown = capsys.readouterr().out
    assert r"a \x1b]52;c;YQ==\x07.jpg and \u202e\r.png are bad:" in shown
    assert shown.endswith("\n\tboth\n")  # lines of a message stay lines
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == shown
