"""Shared by all tests: where the real data sets are, if anywhere, and one thread per test."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.system.home import home_folder

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOG_minloglevel", "2")

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "classification"
KERNELS = home_folder() / "kernels"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The golden values that are committed with the tests."""
    return FIXTURES


@pytest.fixture(scope="session")
def segmentation() -> Path:
    """The golden values of segmentation."""
    return FIXTURES.with_name("segmentation")


@pytest.fixture(scope="session")
def make_home() -> Callable[[Path], Path]:
    """Makes a folder for `PPCLS_LITE_HOME` in which nothing lies but the compiled kernels.

    They are those of this user, whose name has everything that they depend on: a build in each
    home would take twenty seconds.
    """

    def make(folder: Path) -> Path:
        KERNELS.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)
        (folder / "kernels").symlink_to(KERNELS)
        return folder

    return make


@pytest.fixture
def own_home(
    make_home: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The test's own `PPCLS_LITE_HOME`, with kernels."""
    home = make_home(tmp_path / "home")
    monkeypatch.setenv("PPCLS_LITE_HOME", str(home))
    return home


Named = Sequence[tuple[str, Sequence[int]]]  # state-dict keys and shapes


@pytest.fixture(scope="session")
def dense_weights() -> Callable[..., dict[str, np.ndarray]]:
    """The formula that the golden values of segmentation and detection were made with."""

    def value(name: str, shape: Sequence[int], gain: float) -> np.ndarray:
        noise = _normal(name, shape)
        if name.endswith("_variance"):
            return 1 + 0.1 * np.abs(noise)
        if len(shape) == 4:
            return noise * np.sqrt(gain / np.prod(shape[1:]))
        return 0.05 * noise + (1 if name.endswith("weight") else 0)

    def fill(named: Named, gain: float = 2) -> dict[str, np.ndarray]:
        return {name: value(name, shape, gain).astype(np.float32) for name, shape in named}

    return fill


@pytest.fixture(scope="session")
def dense_input() -> Callable[..., np.ndarray]:
    """The formula of the images and logits that those golden values were made with."""

    def make(tag: str, shape: Sequence[int], scale: float = 0.5) -> np.ndarray:
        return (_normal(f"input:{tag}", shape) * scale).astype(np.float32)

    return make


def _normal(tag: str, shape: Sequence[int]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(tag.encode())).standard_normal(size=tuple(shape))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image data sets; a test that asks for it skips where there is none."""
    named = os.environ.get("PPCLS_LITE_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist (set PPCLS_LITE_TEST_DATA)")
    return folder
