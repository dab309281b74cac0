"""Log, run folder, device, generators, signals, memory."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import select
import signal
import struct
import sys
import termios
import time

import numpy as np
import paddle
import pytest

from ppcls_lite.engine import device, log, memory, rng, run_folder
from ppcls_lite.engine.signals import StopSignals
from ppcls_lite.errors import UserError
from ppcls_lite.system import safe_pickle


@pytest.fixture
def put_back():
    yield
    logger = logging.getLogger("ppcls_lite")
    for handler in [h for h in logger.handlers if getattr(h, "is_ours", False)]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


@pytest.mark.parametrize(("lines", "is_seen"), [(None, False), (0, False), (40, True)])
def test_step_lines_give_way_to_a_bar_on_a_terminal(
    tmp_path, monkeypatch, put_back, lines, is_seen
):
    """`lines` of a real pseudo-terminal; None is a pipe."""
    read, write = os.pipe() if lines is None else os.openpty()
    if lines is not None:
        fcntl.ioctl(write, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 150, 0, 0))
    with os.fdopen(write, "w") as console:
        monkeypatch.setattr(sys, "stdout", console)
        logger = log.setup(tmp_path)
        log.setup(tmp_path)  # again: no line is doubled
        with log.bar("[Epoch 1/2]", 3) as bar:
            bar.update()
            logger.info("a step", extra=log.STEP)
            logger.info("an epoch")
        console.flush()
        shown = b""
        while select.select([read], [], [], 0.2)[0]:
            shown += os.read(read, 100_000)
        monkeypatch.undo()
    os.close(read)
    kept = (tmp_path / "train.log").read_text()
    assert kept.count("a step") == 1 and kept.count("an epoch") == 1
    assert shown.count(b"an epoch") == 1
    assert (b"a step" in shown) is not is_seen
    assert (b"[Epoch 1/2]  33%" in shown) is is_seen


def test_long_silence_is_broken_off_a_terminal(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ppcls_lite")
    with log.bar("[Eval][Epoch 2]", 3) as bar:
        bar.update()
        monkeypatch.setattr(log, "HEARTBEAT", 0.0)
        bar.update()
        bar.set_postfix_str("does nothing here")
    assert [record.message for record in caplog.records] == ["[Eval][Epoch 2] 2/3"]


def test_step_line():
    costs = {"batch_cost": 0.123, "reader_cost": 0.01, "ips": 520.1}
    line = log.step_line("[Epoch 1/20]", "10/25", "Cosine", 4e-4, {"loss": 1.5}, costs, 505)
    assert line == (
        "[Train][Epoch 1/20][Iter: 10/25]lr(Cosine): 0.00040000, loss: 1.50000, "
        "batch_cost: 0.12300s, reader_cost: 0.01000s, ips: 520.10000 samples/s, eta: 0:01:02"
    )


def test_stopwatch_tells_waiting_from_working():
    def slow():
        for item in range(3):
            time.sleep(0.02)
            yield item

    watch = log.Stopwatch()
    for _ in watch.waits(slow()):
        time.sleep(0.01)
        watch.step(samples=8)
    costs = watch.costs()
    assert 0.02 <= costs["reader_cost"] < costs["batch_cost"]
    assert costs["batch_cost"] - costs["reader_cost"] >= 0.009
    assert costs["ips"] == pytest.approx(8 / costs["batch_cost"])


def test_run_folder(tmp_path):
    run_dir = run_folder.prepare(tmp_path / "a" / "b")
    assert list(run_dir.iterdir()) == []
    assert run_folder.write_config(run_dir, "Arch: {name: Ünet}\n").read_text("utf-8") == (
        "Arch: {name: Ünet}\n"
    )
    found = json.loads(run_folder.write_versions(run_dir).read_text())
    assert found["numpy"] == np.__version__ and found["processor"] and "python" in found


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: Not a directory.*output_dir"):
        run_folder.prepare(tmp_path / "file" / "run")
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        run_folder.prepare(tmp_path / "closed")


def test_device():
    assert device.select("cpu") == "cpu"
    if paddle.is_compiled_with_cuda():
        pytest.skip("a Paddle with CUDA")
    assert device.select("auto") == "cpu"
    with pytest.raises(UserError, match=r"built for CPUs only.*Global\.device=cpu"):
        device.select("gpu")
    with pytest.raises(UserError, match="expected auto, cpu or gpu"):
        device.select("tpu")


def test_generators_continue_from_a_file(tmp_path):
    rng.seed(5)
    paddle.rand([3]), np.random.rand(), random.random()
    safe_pickle.dump_atomic(rng.state(), tmp_path / "rng")

    def draw():
        return paddle.rand([4]).tolist(), np.random.rand(4).tolist(), random.random()

    expected = draw()
    draw()
    rng.restore(safe_pickle.load(tmp_path / "rng"))
    assert draw() == expected
    rng.seed(5)
    first = draw()
    rng.seed(5)
    assert draw() == first


def test_generators_of_other_devices_are_refused():
    saved = rng.state()
    saved["paddle"]["cpu"] = []
    with pytest.raises(UserError, match="random state of 0 cpu devices, this run has 1"):
        rng.restore(saved)


def test_forked_workers_ignore_ctrl_c_and_end_on_sigterm():
    with StopSignals():
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
        os.kill(child, signal.SIGINT)
        time.sleep(0.1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)  # still there
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_memory_is_flat_from_the_second_epoch(tiny, tmp_path):
    """The images of one epoch are 12 MB: an epoch that kept its batches would show."""
    loader = tiny.Loader(128, 16)
    loader.images = np.random.default_rng(0).random((128, 3, 90, 90)).astype(np.float32)
    trainer = tiny.build(tmp_path, loader=loader, epochs=8, save_interval=100)
    trainer.fit()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    peaks = [r["peak_rss_mb"] for r in map(json.loads, lines) if r["kind"] == "train"]
    assert len(peaks) == 8 and peaks[0] > 100
    assert peaks[-1] - peaks[1] < 12, peaks
    assert memory.peak()["peak_rss_mb"] >= peaks[-1]
