"""The comparison of files, shards and shrunk images runs and says what it measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.speed import shards


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SIZES", (160,))
    assert shards.main(["--images", "4", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^\| ([\w ,-]+) \| (\d+) \| (\d+) \| (\d+) \|$", out, re.M)
    assert [row[0] for row in rows] == ["files", "shards, the same bytes", "shards, --size 160"]
    assert int(rows[2][1]) < int(rows[0][1]) / 2


def test_cold_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert shards.main(["--images", "4", "--rounds", "1", "--cold", "--folder", "."]) == 0
    assert re.search(r"shards against files: [\d.]+ times$", capsys.readouterr().out, re.M)
