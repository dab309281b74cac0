"""The kernels under the address and undefined-behaviour sanitizers, and on other processors."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from ppcls_lite.kernels import build

HARNESS = Path(__file__).with_name("harness.cpp")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
ON_X86 = platform.machine() in ("x86_64", "AMD64")
LEVELS = [pytest.param((), id="plain"), pytest.param(("-march=native",), id="native")]
if ON_X86:
    LEVELS.insert(1, pytest.param(("-mavx2", "-mfma"), id="avx2"))


def compiler() -> list[str]:
    try:
        return list(build.find_compiler().command)
    except build.KernelsError as error:
        pytest.skip(str(error))


def has(feature: str) -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and f" {feature} " in info.read_text(encoding="utf-8")


@pytest.mark.parametrize("level", LEVELS)
def test_no_access_outside_the_tensors_and_no_undefined_behaviour(
    level: tuple[str, ...], tmp_path: Path
) -> None:
    if "-mavx2" in level and not has("avx2"):
        pytest.skip("this processor has no AVX2")
    program = tmp_path / "harness"
    flags = [flag for flag in build.FLAGS if not flag.startswith("-O")]
    sources = sorted(build.SOURCES.glob("*.cpp"))
    command = [*compiler(), *flags, "-O1", *level, *SANITIZERS, *sources, HARNESS, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "cannot find" in done.stderr:
        pytest.skip(f"the sanitizers' libraries are not installed: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) > 1000


def test_the_sources_compile_for_arm64(tmp_path: Path) -> None:
    cross = shutil.which("aarch64-linux-gnu-g++")
    if cross is None:
        pytest.skip("aarch64-linux-gnu-g++ is not installed (Debian: g++-aarch64-linux-gnu)")
    command = [cross, *build.FLAGS, "-fopenmp", "-Wall", "-Wextra", "-Werror", "-c"]
    sources = sorted(build.SOURCES.glob("*.cpp"))
    subprocess.run([*command, *sources], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("*.o"))) == len(sources)
