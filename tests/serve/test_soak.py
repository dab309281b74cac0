"""The short form of experiments/serve_soak.py: all kinds of clients, and two ways to end."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

for package in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the service needs pip install .[serve]")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_request_has_its_answer_however_it_ends(folder: Path) -> None:
    module = importlib.import_module("experiments.serve_soak")
    ways = ("group SIGTERM", "engine SIGKILL")
    report = module.soak(folder, 3.0, ways)
    assert report.failures == []
    assert all(way in life for way, life in zip(ways, report.lives, strict=True))
    assert report.statuses["good: 200"] > 0 and report.statuses["garbage: 415"] > 0
