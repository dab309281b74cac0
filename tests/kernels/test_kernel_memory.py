"""The kernels under the address and undefined-behaviour sanitizers, and on other processors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from experiments import kernel_fuzz
from ppcls_lite.kernels import build

SHAPES = 120
WRONG = 300  # until one has the wrong border


def compiled(folder: Path, level: tuple[str, ...]) -> Path:
    try:
        compiler = build.find_compiler().command
    except build.KernelsError as error:
        pytest.skip(str(error))
    program = folder / "harness"
    if missing := kernel_fuzz.compile_harness(program, compiler, level, kernel_fuzz.SHORT):
        pytest.skip(f"the sanitizers' libraries are not installed: {missing}")
    return program


@pytest.mark.parametrize("level", kernel_fuzz.levels())
def test_no_access_outside_the_tensors_no_undefined_behaviour_and_the_right_values(
    level: str, tmp_path: Path
) -> None:
    program = compiled(tmp_path, kernel_fuzz.levels()[level])
    calls, failure = kernel_fuzz.fuzz(program, 0, SHAPES)
    assert failure == "" and calls > 4 * SHAPES


def test_the_fuzz_notices_a_wrong_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "source"
    shutil.copytree(build.SOURCES, sources)
    text = (sources / "columns.h").read_text()
    assert "(right.stride - 1 - start)" in text
    (sources / "columns.h").write_text(
        text.replace("(right.stride - 1 - start)", "(right.stride - start)")
    )
    monkeypatch.setattr(build, "SOURCES", sources)
    _, failure = kernel_fuzz.fuzz(compiled(tmp_path, ()), 0, WRONG)
    assert "seed " in failure and "dense" in failure and " instead of " in failure


def test_the_sources_compile_for_arm64(tmp_path: Path) -> None:
    cross = shutil.which("aarch64-linux-gnu-g++")
    if cross is None:
        pytest.skip("aarch64-linux-gnu-g++ is not installed (Debian: g++-aarch64-linux-gnu)")
    command = [cross, *build.FLAGS, "-fopenmp", "-Wall", "-Wextra", "-Werror", "-c"]
    sources = sorted(build.SOURCES.glob("*.cpp"))
    subprocess.run([*command, *sources], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("*.o"))) == len(sources)
