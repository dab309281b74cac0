"""Log lines: what a name of a file or class holds does not command the terminal."""

from __future__ import annotations

import os
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


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> object:
    """Lets the log believe in a terminal of so many columns."""

    def of(columns: int) -> None:
        monkeypatch.setattr(log, "on_terminal", lambda: True)
        size = os.terminal_size((columns, 40))
        monkeypatch.setattr(log.os, "get_terminal_size", lambda fd: size)

    return of


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 220])
def test_a_bar_shows_as_many_values_as_fit(terminal, columns: int, monkeypatch) -> None:
    terminal(columns)
    with log.bar("[Epoch 1/3]", 5) as bar:
        assert bar.wants_values  # at once, however short the epoch is
        bar.tell([log.short("loss", 1.5), "0:12:34 left", log.short("top1", 0.25), "x" * 90])
        assert not bar.wants_values
        bar.update()
        line = bar.format_meter(**{**bar.format_dict, "ncols": columns})
    assert len(line) <= columns and line.startswith("[Epoch 1/3]  20%")
    assert ("loss 1.5" in line) == (columns >= 60)
    assert ("0:12:34 left" in line and "top1 0.25" in line) == (columns >= 80)
    assert ("xxx" in line) == (columns == 220)


def test_elsewhere_a_bar_wants_nothing() -> None:
    with log.bar("[Epoch 1/3]", 5) as bar:
        assert not bar.wants_values


def test_a_terminal_gets_short_lines_and_the_file_whole_ones(
    terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(80)
    logger = log.setup(tmp_path)
    try:
        logger.info("images: 3")
        logger.info("[Train][Epoch 1/3][Avg]", extra=log.STEP)
        logger.warning("one is bad")
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    assert capsys.readouterr().out == "images: 3\nwarning: one is bad\n"
    assert (tmp_path / "train.log").read_text(encoding="utf-8").count("ppcls_lite") == 3


def test_the_rest_of_a_run_is_told_from_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    remaining = log.Remaining()
    remaining.start(10)  # of a run that is resumed
    assert remaining.text(10, 50) == ""
    now[0] = 120.0
    assert remaining.text(20, 50) == "0:01:00 left"
