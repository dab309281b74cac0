"""What happens to the worker processes when something dies, breaks or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.errors import TryAgainError, UserError

ROOT = Path(__file__).resolve().parents[2]


class Numbers:
    """A data set whose sample `index` is the number, with an action at some index."""

    batch_keys = ("image", "label")
    problems = ()
    seed = 0
    has_unlabeled = False

    def __init__(self, length=64, at=None, action=None):
        self.paths = [f"{i}.jpg" for i in range(length)]
        self.at, self.action = at, action

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        if key.index == self.at:
            self.action()
        return {"image": np.full((3, 8, 8), key.index, np.float32), "label": key.index}

    def locate(self, key):
        return key

    def split_tail(self):
        return self, None


def loader(data, **options):
    sampler = DistributedBatchSampler(4).bind(len(data))
    return Loader(data, sampler, num_workers=2, **options)


def children():
    alive = psutil.Process().children()
    return [c for c in alive if c.status() != psutil.STATUS_ZOMBIE]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("shared", [True, False])
def test_a_killed_worker_is_reported_at_once(shared):
    one = loader(Numbers(at=30, action=die), use_shared_memory=shared)
    start = time.monotonic()
    message = r"was killed by SIGKILL; .*out of memory.*num_workers"
    with pytest.raises(TryAgainError, match=message) as caught:
        list(one.epoch(0))
    assert caught.value.exit_code == 75  # the same command goes on
    assert time.monotonic() - start < 4
    assert children() == []


def test_any_worker_that_dies_is_noticed():
    one = loader(Numbers(at=3, action=lambda: time.sleep(30)))  # the first worker is asleep
    batches = one.epoch(0)
    pool = one._running_pool()
    pool._workers[1].process.kill()
    start = time.monotonic()
    with pytest.raises(UserError, match="SIGKILL"):
        next(batches)
    assert time.monotonic() - start < 4
    assert children() == []


def test_after_a_death_the_next_epoch_works_again():
    data = Numbers(at=30, action=die)
    one = loader(data)
    with pytest.raises(UserError):
        list(one.epoch(0))
    data.at = None
    assert len(list(one.epoch(0))) == len(one)
    one.close()
    assert children() == []


def fail():
    raise ZeroDivisionError("a bug in a transform")


def complain():
    raise UserError("the crop is larger than the image")


def test_errors_of_a_worker_arrive_with_their_place():
    with pytest.raises(RuntimeError, match=r"(?s)in fail.*9.jpg: ZeroDivisionError: a bug in a"):
        list(loader(Numbers(at=9, action=fail)).epoch(0))
    with pytest.raises(UserError, match=r"^9.jpg: the crop is larger than the image$"):
        list(loader(Numbers(at=9, action=complain)).epoch(0))
    assert children() == []


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us may ignore it
sys.path.insert(0, {root!r})
sys.path.insert(0, {tests!r})
from test_loader_failures import Numbers, loader
one = loader(Numbers())
epoch = 0
while True:
    for batch in one.epoch(epoch):
        print(epoch, flush=True)
        time.sleep(0.05)
    epoch += 1
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans(how):
    script = SCRIPT.format(root=str(ROOT), tests=str(Path(__file__).parent))
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    parent.stdout.readline()  # the first batch is there
    workers = psutil.Process(parent.pid).children()
    assert len(workers) >= 1
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does
    else:
        parent.send_signal(how)
    parent.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=5)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_workers_leave_signals_to_the_parent(how):
    """A job system signals the whole group; the parent wants to finish its step and save."""
    one = loader(Numbers())
    batches = one.epoch(0)
    next(batches)
    for child in children():
        child.send_signal(how)
    assert len(list(batches)) == len(one) - 1
    one.close()


def test_a_python_without_memfd_create(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    one = loader(Numbers())  # the C library has the function
    assert len(list(one.epoch(0))) == len(one)
    one.close()


def test_a_system_without_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **options: object())
    with pytest.raises(UserError, match="use_shared_memory: False"):
        list(loader(Numbers()).epoch(0))
    one = loader(Numbers(), use_shared_memory=False)
    assert len(list(one.epoch(0))) == len(one)
    one.close()
