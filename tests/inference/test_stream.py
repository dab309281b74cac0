"""Decoding ahead of inference, and the engine in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.engine_process import EngineProcess
from ppcls_lite.inference.pipeline import ahead, batched
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.system.processes import environment


class Doubler:
    """An engine that is quick to start."""

    name = "doubler"
    threads = 3

    def __init__(self, refuse: str = "") -> None:
        if refuse == "user":
            raise UserError("cannot be loaded")
        if refuse:
            raise ZeroDivisionError(refuse)

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        if inputs.min() < -1:
            raise UserError("too small")
        if inputs.min() < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if inputs.max() > 1000:  # a slow batch
            time.sleep(float(inputs.max()) / 10_000)
        return [inputs.reshape(len(inputs), -1) * 2]


@pytest.fixture(scope="module")
def doubler() -> Iterator[EngineProcess]:
    with EngineProcess(Doubler, numbers=24) as engine:
        _ENGINES[:] = [engine]
        yield engine


@pytest.fixture(scope="module")
def predictors(exported: Any) -> Iterator[tuple[Predictor, Predictor]]:
    with Predictor(exported.folder, threads=1, isolate=4) as isolated:
        yield isolated, Predictor(exported.folder, threads=1)


def test_a_process_runs_batches_of_any_size(doubler: EngineProcess) -> None:
    assert (doubler.name, doubler.threads) == ("doubler", 3)
    with pytest.raises(AttributeError, match="has no attribute 'precision'"):
        doubler.precision  # noqa: B018
    for shape in [(1, 3, 2, 2), (2, 3, 2, 2), (5, 3, 2, 2), (2, 3, 1, 1)]:  # the third is too large
        batch = np.random.default_rng(0).random(shape, np.float32)
        (found,) = doubler.run(batch[..., ::-1])
        assert np.array_equal(found, 2 * batch[..., ::-1].reshape(shape[0], -1))


def test_a_process_may_be_used_from_several_threads(doubler: EngineProcess) -> None:
    def one(number: int) -> bool:
        batch = np.full((1, 3, 2, 2), number, np.float32)
        return bool(np.all(doubler.run(batch)[0] == 2 * number))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(200)))


def test_errors_of_the_process_arrive(doubler: EngineProcess) -> None:
    with pytest.raises(UserError, match="too small"):
        doubler.run(np.full((1, 3, 2, 2), -2, np.float32))
    assert doubler.run(np.ones((1, 3, 2, 2), np.float32))[0].sum() == 24  # it goes on
    with pytest.raises(UserError, match="cannot be loaded"):
        EngineProcess(partial(Doubler, "user"), 1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: oh"):
        EngineProcess(partial(Doubler, "oh"), 1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as on POSIX")
def test_the_death_of_the_process_is_an_error_not_a_hang() -> None:
    with EngineProcess(Doubler, 24) as engine:
        assert engine.alive
        for _ in range(4):  # on every lane, and again
            with pytest.raises(UserError, match=r"engine's process died \(signal 9\)"):
                engine.run(np.full((1, 3, 2, 2), -0.5, np.float32))
        assert not engine.alive


def test_closing_ends_the_process() -> None:
    engine = EngineProcess(Doubler, 24)
    engine.close()
    assert not engine.alive
    with pytest.raises(UserError, match="was closed"):
        engine.run(np.ones((1, 3, 2, 2), np.float32))


def filled(number: int) -> np.ndarray:
    return np.full((1, 3, 2, 2), number, np.float32)


def interrupted_calls() -> None:
    """Calls that Ctrl-C ends, and others after each of them."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    with EngineProcess(Doubler, 24) as engine:
        for number in range(6):  # more often than there are lanes
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                engine.run(filled(2000))
            found = [engine.run(filled(10 * number + i))[0][0, 0] for i in range(4)]
            assert found == [2 * (10 * number + i) for i in range(4)]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interrupts as on POSIX")
def test_an_interrupted_call_shifts_no_answers() -> None:
    """In a process of its own: an interrupt that comes late would end the tests."""
    program = f"from {__name__} import interrupted_calls; interrupted_calls()"
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    places = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment(PYTHONPATH=places)
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals as on POSIX")
def test_no_wait_for_a_stopped_process_is_without_a_limit() -> None:
    for large in (False, True):  # shared memory, and more than the pipe's buffer takes
        with EngineProcess(Doubler, 24) as engine, ThreadPoolExecutor(4) as pool:
            engine.limit = 0.5
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)
            batch = np.ones((4, 3, 512, 512), np.float32) if large else filled(1)
            calls = [pool.submit(engine.run, batch) for _ in range(4)]
            for call in calls:
                with pytest.raises(UserError, match=r"no answer within 0\.5 seconds|died"):
                    call.result(20)
            assert not engine.alive


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals as on POSIX")
def test_signals_to_the_group_leave_the_process_alone(exported: Any) -> None:
    with Predictor(exported.folder, threads=1, isolate=1) as predictor:
        image = np.zeros((40, 40, 3), np.uint8)
        before = predictor.predict(image)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(predictor.engine.pid, number)
        assert predictor.predict(image) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_is_refused_and_leaves_the_parents_engine_alone(doubler: EngineProcess) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        for _ in range(4):
            with pytest.raises(UserError, match="make a Predictor in each process"):
                pool.submit(partial(_run_here, 3)).result(20)
    child = os.fork()
    if child == 0:
        _ENGINES[0].close()  # as the end of a `with` block would
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert doubler.run(filled(3))[0][0, 0] == 6


_ENGINES: list[EngineProcess] = []  # what a forked worker finds in its memory


def _run_here(number: int) -> Any:
    return _ENGINES[0].run(filled(number))


@pytest.mark.parametrize("end", ["", "os.kill(engine.pid, signal.SIGSTOP)"])
def test_a_program_that_closes_nothing_ends(end: str, tmp_path: Path) -> None:
    text = f"""
import os, signal
from ppcls_lite.inference import engine_process
from tests.inference.test_stream import Doubler, EngineProcess, filled
engine_process._PATIENCE = 0.5
if __name__ == "__main__":
    engine = EngineProcess(Doubler, 24)
    assert engine.run(filled(3))[0][0, 0] == 6
    {end}
"""
    program = tmp_path / "program.py"
    program.write_text(text)
    found = subprocess.run(
        [sys.executable, program], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_ahead_keeps_the_order_and_reads_only_so_far() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    squares = ahead(slow, items(), threads=4, limit=6)
    assert next(squares) == 0 and len(taken) == 6
    assert next(squares) == 1 and len(taken) == 7
    assert list(squares) == [i * i for i in range(2, 100)]


def test_ahead_passes_errors_on_and_ends_its_threads() -> None:
    before = threading.active_count()
    results = ahead(lambda item: 1 // item, [2, 1, 0, 1, 1, 1], threads=2, limit=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    unfinished = ahead(str, range(10), threads=2, limit=4)
    assert next(unfinished) == "0"
    unfinished.close()
    assert threading.active_count() == before


def test_batched() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]] and not list(batched([], 3))


def test_the_answers_are_the_same_however_they_are_computed(
    predictors: tuple[Predictor, Predictor], pictures: Path
) -> None:
    bad = pictures / "bad.jpg"
    bad.write_bytes(b"no image")
    data = (pictures / "a.png").read_bytes()
    images = [*sorted(pictures.glob("*.*")), data, pictures / "gone.png"] * 5
    images = [image for image in images if not str(image).endswith(".txt")]
    for batch_size in (1, 3, 16):  # the last one is larger than the shared memory
        expected = list(predictors[1].stream(images, batch_size, keep_going=True))
        assert sum("error" in result for result in expected) == 10
        for predictor in predictors:
            for threads in (1, 4):
                found = list(predictor.stream(images, batch_size, True, None, threads))
                assert found == expected
    assert expected[0] == {**predictors[1].predict(data)[0], "file": str(images[0])}


def test_an_unreadable_image_ends_a_stream_that_shall_not_go_on(
    predictors: tuple[Predictor, Predictor], pictures: Path
) -> None:
    images = [pictures / "a.png", pictures / "gone.png", pictures / "b.JPG"]
    stream = predictors[0].stream(images, 1, decode_threads=2)
    with pytest.raises(ImageError, match=r"gone.png"):
        list(stream)


def test_requests_from_several_threads_get_the_answers_they_get_alone(
    predictors: tuple[Predictor, Predictor], pictures: Path
) -> None:
    images = [
        path for path in sorted(pictures.rglob("*")) if path.suffix in (".png", ".JPG", ".bmp")
    ]
    for predictor in predictors:
        alone = [predictor.predict(image) for image in images]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(predictor.predict, images * 10))
        assert found == alone * 10


def test_several_predictors_in_threads(exported: Any, pictures: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: Predictor(exported.folder, threads=1), range(3)))
        found = list(pool.map(lambda p: p.predict(pictures / "a.png"), made * 5))
    assert found == [found[0]] * 15
