"""The compiled kernels: those of this user, built now if there are none yet."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_lite.kernels import build, library


@pytest.fixture(scope="session")
def kernels_home(
    make_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A `PPCLS_LITE_HOME` in which the kernels are built."""
    try:
        build.find_compiler()
    except build.KernelsError as error:
        pytest.skip(f"native kernels cannot be built here: {error}")
    return make_home(tmp_path_factory.mktemp("kernels_home"))


@pytest.fixture(scope="session")
def built_kernels(kernels_home: Path) -> Path:
    """The library; a failure of its build or of its self-test is a failure of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPCLS_LITE_HOME", str(kernels_home))
        return build.built()


@pytest.fixture(scope="session")
def native(built_kernels: Path) -> ctypes.CDLL:
    """The library, with one thread; even the smallest kernel is worth another one."""
    return _loaded(built_kernels)


@pytest.fixture(scope="session")
def native_bf16(kernels_home: Path) -> ctypes.CDLL:
    """The same of `cpu_kernels_dtype: bf16`."""
    try:
        build.kinds_here("bf16")
    except build.KernelsError as reason:
        pytest.skip(str(reason))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPCLS_LITE_HOME", str(kernels_home))
        return _loaded(build.built("bf16"))


@pytest.fixture(params=["fp32", "bf16"])
def either(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """Both, one after another."""
    return request.getfixturevalue({"fp32": "native", "bf16": "native_bf16"}[request.param])


def _loaded(path: Path) -> ctypes.CDLL:
    loaded = library.load(path)
    loaded.use_threads(1)
    ctypes.c_int64.in_dll(loaded, "kernels_worth").value = 1
    return loaded
