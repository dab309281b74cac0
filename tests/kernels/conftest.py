"""The compiled kernels, once per test session, in a cache folder of the session's own."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from ppcls_lite.kernels import build, library


@pytest.fixture(scope="session")
def kernels_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `PPCLS_LITE_HOME` in which the kernels are built."""
    home = tmp_path_factory.mktemp("kernels_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPCLS_LITE_HOME", str(home))
        try:
            build.find_compiler()
        except build.KernelsError as error:
            pytest.skip(f"native kernels cannot be built here: {error}")
        build.built()  # a failure of the build or of its self-test is a failure of the tests
    return home


@pytest.fixture(scope="session")
def native(kernels_home: Path) -> ctypes.CDLL:
    """The library, with one thread; even the smallest kernel is worth another one."""
    (path,) = kernels_home.glob("kernels/*/kernels.so")
    loaded = library.load(path)
    loaded.use_threads(1)
    ctypes.c_int64.in_dll(loaded, "kernels_worth").value = 1
    return loaded
