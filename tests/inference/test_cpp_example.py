"""The C++ example: built with the OpenVINO that pip has installed, it answers as Python does."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.benchmark import models as latency_models
from ppcls_lite.inference.engines import make_engine

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:
        pytest.skip("the Python package openvino is not installed")
    modules = Path(found.origin).parent / "cmake"
    if not (modules / "OpenVINOConfig.cmake").is_file():
        pytest.skip("this openvino package has no CMake files")
    build = tmp_path_factory.mktemp("build")
    for command in (
        ["cmake", "-S", ROOT / "deploy/cpp", "-B", build, f"-DOpenVINO_DIR={modules}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr.lower()
    return build / "classify"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="onnx is not installed; it writes the network")
    pytest.importorskip("openvino", reason="openvino is not installed")
    folder = tmp_path_factory.mktemp("models")
    models = latency_models.prepare(
        ["PPLCNet_x0_25"], folder, latency_models.Job((SIZE, SIZE)), ["onnx"], lambda _: None
    )
    return models["PPLCNet_x0_25"] / "inference.onnx"


def call(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    words = [str(program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_the_answers_are_pythons(program: Path, network: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE), np.float32)
    images.tofile(tmp_path / "input.f32")
    done = call(program, network, tmp_path / "input.f32", 3, SIZE, SIZE, 1, 2)
    assert done.returncode == 0, done.stderr
    expected = make_engine(network.parent, "openvino", "fp32", 1).run(images)[0]
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line, row in zip(lines, expected):
        words = line.partition(": ")[2].split()
        classes, scores = [int(word) for word in words[::2]], [float(w) for w in words[1::2]]
        assert len(classes) == 5
        assert classes[0] == row.argmax()
        np.testing.assert_allclose(scores, np.sort(row)[::-1][:5], rtol=1e-3, atol=2e-6)
        np.testing.assert_allclose(scores, row[classes], rtol=1e-3, atol=2e-6)
    assert re.fullmatch(r"median of 2 runs with 1 thread\(s\): \d+\.\d{3} ms", lines[3])


def test_mistakes_are_told(program: Path, network: Path, tmp_path: Path) -> None:
    file = tmp_path / "input.f32"
    file.write_bytes(b"123")
    for arguments, message in (
        ((network, file, 3, SIZE, SIZE), "holds 3 bytes, expected a multiple of 49152"),
        ((network, tmp_path / "none", 3, SIZE, SIZE), "none: cannot be read"),
        ((network, file, 3, 0, SIZE), "HEIGHT: expected a number from 1 on, found 0"),
    ):
        done = call(program, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
    assert call(program).returncode == 2
