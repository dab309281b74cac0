"""Ranks that wait for each other: who is slow, stopped, gone or different is said by name."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ppcls_lite.engine import distributed, meeting, ranks
from ppcls_lite.engine.meeting import LostError, Meeting
from ppcls_lite.errors import UserError
from ppcls_lite.system.processes import free_ports

ROOT = Path(__file__).resolve().parents[3]


class Store:
    """The key-value store of a run, in memory."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._change = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self._change:
            self._values[key] = value.encode()
            self._change.notify_all()

    def get(self, key: str) -> bytes:
        with self._change:
            self._change.wait_for(lambda: key in self._values, timeout=10)
            return self._values[key]


def joined(size: int, patience: float, stall: float = math.inf) -> list[Meeting]:
    """The ends of all ranks, in this process."""
    store, host = Store(), "127.0.0.1"
    with ThreadPoolExecutor(size) as pool:
        ends = [pool.submit(Meeting, r, size, store, host, patience, stall) for r in range(size)]
        return [end.result() for end in ends]


def error_of(end: Meeting) -> str:
    with pytest.raises(LostError) as caught:
        end.meet()
    return str(caught.value)


def test_all_go_on_when_the_last_one_is_there() -> None:
    team, order = joined(3, 20), []

    def visit(end: Meeting, delay: float) -> None:
        for place in range(20):
            time.sleep(delay * (place == 10))
            order.append(("in", place))
            end.meet()
            order.append(("out", place))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(visit, team, (0, 0.2, 0.05)))
    for place in range(20):
        last_in = max(i for i, what in enumerate(order) if what == ("in", place))
        assert last_in < min(i for i, what in enumerate(order) if what == ("out", place))


def test_a_slow_rank_is_told_from_a_silent_one_and_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "BEAT", 0.05)
    slow = error_of(joined(2, 0.5)[0])
    assert "rank 1 on " in slow and "is alive but too slow: the others have waited" in slow
    monkeypatch.setattr(meeting, "SILENT", 0.4)
    team = joined(3, 0.5)
    team[1]._lock.acquire()  # as if it were stopped: its signs of life stay away
    team[2]._socket.sendall(meeting.ARRIVED)
    assert "rank 1 on " in (text := error_of(team[0])) and "has given no sign of life for" in text
    team = joined(2, 20)
    team[1]._socket.shutdown(2)
    assert "has ended without a message: killed" in error_of(team[0])


def test_a_silent_rank_is_not_waited_for_as_long_as_a_slow_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "BEAT", 0.05)
    team = joined(2, patience=600, stall=0.6)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(team[0].meet)
        time.sleep(1.2)  # it shows that it is alive
        assert not waiting.done()
        team[1]._lock.acquire()  # as if it were stopped
        with pytest.raises(LostError, match=r"rank 1 on .* has given no sign of life for \d+ s"):
            waiting.result(timeout=20)


def test_a_silent_rank_0_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting._Server, "_send", lambda server, data: None)
    one = joined(2, patience=600, stall=0.3)[1]
    assert "rank 0 on 127.0.0.1 has given no sign of life for 0.3 s" in error_of(one)


PROGRAM = """
import json, os, sys, time
import paddle
paddle.set_device("cpu")
from ppcls_lite.engine.distributed import connect
from ppcls_lite.errors import UserError
world, what = connect(), sys.argv[1]
try:
    if world.rank == 1 and what == "stopped":
        print("stop", os.getpid(), flush=True)
        os.kill(os.getpid(), 19)
    if world.rank == 1 and what != "stopped":
        time.sleep(6)
    print("total", float(world.total(paddle.ones([1])[0])), flush=True)
    world.require_same({"Global.epochs": 1 + world.rank * what.endswith("different"), "x": 1})
except UserError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def run_two(what: str, milliseconds: int, tmp_path: Path, wake: float = 0) -> list[tuple[int, str]]:
    """Status and output of both ranks; a stopped one goes on after `wake` seconds."""
    ports = free_ports(3)
    ends = [f"127.0.0.1:{port}" for port in ports[1:]]
    team = []
    for rank in range(2):
        environment = os.environ | ranks.place(rank, ports[0], ends)
        environment |= {"PADDLE_PG_TIMEOUT": str(milliseconds), "PYTHONPATH": str(ROOT)}
        output = (tmp_path / f"{rank}").open("w+")
        command = [sys.executable, "-c", PROGRAM, what]
        team.append((subprocess.Popen(command, env=environment, stdout=output), output))
    if what == "stopped":
        end = time.monotonic() + 60
        while "stop" not in (tmp_path / "1").read_text() and time.monotonic() < end:
            time.sleep(0.05)
        threading.Timer(wake, lambda: team[1][0].send_signal(signal.SIGCONT)).start()
    found = []
    for process, output in team:
        status = process.wait(timeout=100)
        output.seek(0)
        found.append((status, output.read()))
    return found


def test_a_delayed_rank_is_waited_for_no_longer_than_configured(tmp_path: Path) -> None:
    (status, text), (_, late) = run_two("delayed", 1000, tmp_path)
    assert status == 75 and "rank 1 on " in text and "is alive but too slow" in text
    assert "PADDLE_PG_TIMEOUT, in milliseconds (now 1 s)" in text and "too slow" in late


def test_a_stopped_rank_is_named(tmp_path: Path) -> None:
    (status, text), _ = run_two("stopped", 1000, tmp_path, wake=8)
    assert status == 75 and "rank 1 on " in text and "has given no sign of life for" in text


def test_a_late_rank_is_waited_for_and_one_that_was_started_differently_refused(
    tmp_path: Path,
) -> None:
    for status, text in run_two("late and different", 60_000, tmp_path):
        assert "total 2.0" in text
        assert status == 1 and "Global.epochs: 1 on rank 0, 2 on rank 1." in text


@pytest.mark.parametrize("text", ["abc", "-1", "10", "1e9"])
def test_a_timeout_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_PG_TIMEOUT", text)
    with pytest.raises(UserError, match=f"PADDLE_PG_TIMEOUT={text}: expected milliseconds"):
        distributed.timeout()


def test_the_timeout_is_half_an_hour_unless_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLE_PG_TIMEOUT", raising=False)
    assert distributed.timeout() == 1800
    monkeypatch.setenv("PADDLE_PG_TIMEOUT", "2500")
    assert distributed.timeout() == 2.5
