"""A service around a stand-in for the network, and an exported folder for the real process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

import cv2
import numpy as np
import pytest

from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec

ROOT = Path(__file__).resolve().parents[2]
LABELS = ["black", "grey", "weiß"]
SIZE = 16


class Brightness:
    """Stands in for a network: the class is how bright the image is. Counts its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.alive = True

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        self.batches.append(len(inputs))
        assert self.hold.wait(20)
        level = inputs.mean(axis=(1, 2, 3))[:, None]  # (N, 1)
        powers = np.exp(-20 * np.abs(level - np.array([0.0, 0.5, 1.0])))  # (N, 3)
        return [(powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)]


class LeftHalf:
    """Stands in for the program of maps: every class is in the left half, class 2 nowhere."""

    def __init__(self) -> None:
        self.alive = True

    def of(self, array: np.ndarray) -> np.ndarray:
        return np.float32([[[1, 0]], [[1, 0]], [[0, 0]]])  # (classes, h, w)


def spec() -> InferenceSpec:
    ops = [
        {"DecodeImage": {}},
        {"ResizeImage": {"size": SIZE}},
        {"NormalizeImage": {"mean": [0, 0, 0], "std": [1, 1, 1], "order": ""}},
        {"ToCHWImage": None},
    ]
    post = {"Topk": {"topk": 2, "label_list": LABELS}}
    return InferenceSpec("Brightness", ops, post, (3, SIZE, SIZE))


@pytest.fixture
def engine() -> Brightness:
    return Brightness()


@pytest.fixture
def maps() -> LeftHalf:
    return LeftHalf()


@pytest.fixture
def predictor(engine: Brightness) -> Predictor:
    return Predictor.of(spec(), engine)


def encoded(level: int, suffix: str = ".jpg", height: int = 40, width: int = 60) -> bytes:
    """An image file of one grey."""
    return cv2.imencode(suffix, np.full((height, width, 3), level, np.uint8))[1].tobytes()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network with random weights."""
    return _exported(tmp_path_factory.mktemp("serve") / "model")


@pytest.fixture(scope="session")
def folder_with_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tmp_path_factory.mktemp("maps") / "model", ["maps"])


def _exported(path: Path, programs: Sequence[str] = ()) -> Path:
    paddle = pytest.importorskip("paddle")
    from ppcls_lite.inference.export import export_model
    from ppcls_lite.models.create import create_model

    paddle.seed(0)
    export_model(
        create_model("PPLCNet_x0_25", class_num=3),
        path,
        image_shape=(3, 32, 32),
        transforms=[
            {"DecodeImage": {}},
            {"ResizeImage": {"size": 32}},
            {"NormalizeImage": {"order": ""}},
            {"ToCHWImage": None},
        ],
        postprocess={"Topk": {"topk": 2}},
        labels=LABELS,
        model_name="PPLCNet_x0_25",
        programs=programs,
    )
    return path


def _limit_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


class Running:
    """`deploy/server.py` in a process of its own."""

    def __init__(self, folder: Path, *options: object, files: int | None = None) -> None:
        command = [sys.executable, ROOT / "deploy" / "server.py", "--model", folder, "--port", 0]
        self.process = subprocess.Popen(
            [*map(str, command), "--threads", "1", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=None if files is None else partial(_limit_files, files),
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if " on http://" not in first:
            raise AssertionError(first + self.process.stdout.read())
        self.url = first.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def engine(self) -> int:
        """The engine's process, found in /proc."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        (engine,) = found
        return engine

    def end(self, timeout: float = 30) -> tuple[int, str]:
        """Exit status and what was printed after the first line."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Running]]:
    """`start(*options)`: a running service; killed at the end of the test if it still runs."""
    started: list[Any] = []

    def run(*options: object, files: int | None = None) -> Running:
        started.append(Running(folder, *options, files=files))
        return started[-1]

    yield run
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
            service.process.communicate()
