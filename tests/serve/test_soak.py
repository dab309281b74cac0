"""The short form of experiments/serve_soak.py: all kinds of clients, and two ways to end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

for package in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the service needs pip install .[serve]")
if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)

from experiments.serve_soak import ENDS, soak


def test_every_request_has_its_answer_however_it_ends(folder: Path) -> None:
    ways = ("group SIGTERM", "engine SIGKILL")
    report = soak(folder, 3.0, ways)
    assert report.failures == []
    assert [f"{way}" in life for way, life in zip(ways, report.lives, strict=True)] == [True, True]
    assert report.statuses["good: 200"] > 0 and report.statuses["garbage: 415"] > 0
    assert set(ways) <= ENDS.keys()
