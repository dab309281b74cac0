"""Shared by all tests: where the real data sets are, if anywhere, and one thread per test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOG_minloglevel", "2")

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "classification"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The golden values that are committed with the tests."""
    return FIXTURES


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image data sets; a test that asks for it skips where there is none."""
    named = os.environ.get("PPCLS_LITE_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist (set PPCLS_LITE_TEST_DATA)")
    return folder
