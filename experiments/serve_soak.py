"""Good, bad and hostile requests at the same time, for a long time, while things are killed.

A service is started again and again; each life ends in another way: a signal to the process or to
its group, its engine killed, or stopped. All the time some clients post images and compare each
answer with a Predictor's, others send damaged images and bombs, others hold connections, flood
heads, break off and do not read. In every second life the service has few files and one core.

Checked: every request that was sent has an answer, and it is one that the documents name; no answer
is another image's; the exit status is the documented one, in time; the memory does not grow.
Traffic goes to 127.0.0.1 only.

    python -m experiments.serve_soak              # 20 minutes
    python -m experiments.serve_soak --minutes 1

Read next: docs/serving.md.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.system.machine import usable_processors
from ppcls_lite.system.processes import environment, toolkit_command

TIMEOUT, READ_TIMEOUT = 2, 2  # the service's, in seconds
END_SECONDS = 60  # from a signal to the end; it is less unless the machine is very busy
FILES = 160  # of a service with few
MOST_GROWTH = 60_000_000  # bytes of a life's second half over its first; caches fill meanwhile
MOST_OUTPUT = 10_000  # letters that a life may print: requests of strangers fill no log
ENDS: dict[str, int] = {  # how a life ends -> the exit status
    "SIGTERM": 0,
    "SIGINT": 0,
    "group SIGTERM": 0,
    "group SIGINT": 0,
    "engine SIGKILL": 1,
    "engine SIGSTOP": 1,
    "engine SIGSTOP, SIGTERM": 1,
}
BUSY = {429, 503, 504}  # refusals that any request may get


@dataclass
class Report:
    """What happened; `failures` empty: as it should."""

    statuses: Counter[str] = field(default_factory=Counter)
    lives: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        counts = "\n".join(f"  {name:<28} {n:8}" for name, n in sorted(self.statuses.items()))
        lines = ["answers", counts, "lives", *self.lives, "memory", *self.memory]
        wrong = self.failures[:50] or ["none"]
        return "\n".join([*lines, f"failures ({len(self.failures)})", *wrong])


@dataclass(frozen=True)
class Case:
    """A body, and what may come back: `answer` with status 200, or one of the statuses."""

    name: str
    body: bytes
    answer: dict[str, Any] | None = None
    statuses: frozenset[int] = frozenset()
    kind: str = "application/octet-stream"


def export(folder: Path) -> None:
    """Write a small network with random weights."""
    import paddle

    from ppcls_lite.inference.export import export_model
    from ppcls_lite.models.create import create_model

    paddle.seed(0)
    export_model(
        create_model("PPLCNet_x0_25", class_num=10),
        folder,
        image_shape=(3, 64, 64),
        transforms=[
            {"DecodeImage": {}},
            {"ResizeImage": {"size": 64}},
            {"NormalizeImage": {"order": ""}},
            {"ToCHWImage": None},
        ],
        postprocess={"Topk": {"topk": 3}},
        labels=[f"class {i}" for i in range(10)],
        model_name="PPLCNet_x0_25",
    )


def cases(folder: Path) -> list[Case]:
    """Images with their answers, and bodies that are refused."""
    rng = np.random.default_rng(0)
    good = []
    with Predictor(folder, threads=1, isolate=1) as predictor:
        for number in range(12):
            cells = rng.integers(0, 256, (3 + number, 5, 3), dtype=np.uint8)
            picture = cv2.resize(cells, (200 + 30 * number, 150), interpolation=cv2.INTER_CUBIC)
            suffix = [".png", ".bmp", ".jpg"][number % 3]
            body = cv2.imencode(suffix, picture)[1].tobytes()
            (result,) = predictor.predict(body)
            del result["file"]
            good.append(Case("good", body, result))
    whole = good[0].body
    part = (
        b"--x\r\nContent-Disposition: form-data; name=f; filename=a.jpg\r\n\r\n" + whole + b"\r\n"
    )
    kind = "multipart/form-data; boundary=x"
    return [
        *good,
        Case("form", part + b"--x--\r\n", good[0].answer, kind=kind),
        Case("two files", part + part + b"--x--\r\n", None, frozenset({422}), kind),
        Case("empty", b"", None, frozenset({422})),
        Case("garbage", rng.bytes(3000), None, frozenset({415})),
        Case("truncated", whole[: len(whole) // 2], None, frozenset({422})),
        Case("announces 40,000 x 40,000", png(40_000, 40_000, b""), None, frozenset({413})),
        Case("inflates", png(32, 32, bytes(50_000_000)), None, frozenset({200, 422})),
        Case("thin", png(1, 5000, bytes(4 * 5000)), None, frozenset({200, 422})),
        Case("too large", bytes(11_000_000), None, frozenset({413})),
    ]


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG with that header and whatever rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


class Service:
    """`ppcls-lite serve` in a process group of its own."""

    def __init__(self, folder: Path, scarce: bool) -> None:
        limits = ["--timeout", TIMEOUT, "--read-timeout", READ_TIMEOUT, "--threads", 1]
        self.process = subprocess.Popen(
            toolkit_command(["serve", "--model", str(folder), "--port", "0", *map(str, limits)]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            start_new_session=True,
            preexec_fn=_few if scarce else None,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if " on http://" not in first:
            raise RuntimeError(first + self.process.stdout.read())
        self.port = int(first.rpartition(":")[2])
        self._output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()  # a pipe that nobody reads would stop the service

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._output.extend(self.process.stdout)

    def engine(self) -> int:
        """The number of the engine's process."""
        for child in _children(self.process.pid):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        raise RuntimeError("the engine's process is not there")

    def memory(self) -> int:
        """Bytes of the service and of its children."""
        pids = [self.process.pid, *_children(self.process.pid)]
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def end(self, way: str) -> tuple[int, str]:
        """End it; returns the status and the rest of what it printed."""
        if way.startswith("engine "):
            first, _, rest = way.removeprefix("engine ").partition(", ")
            os.kill(self.engine(), getattr(signal, first))
            time.sleep(0.5)
            way = rest
        if way.startswith("group "):
            os.killpg(self.process.pid, getattr(signal, way.removeprefix("group ")))
        elif way:
            self.process.send_signal(getattr(signal, way))
        self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        return self.process.returncode, "".join(self._output).strip()


def _few() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    os.sched_setaffinity(0, usable_processors()[:1])


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


class Traffic:
    """Clients of one life, each a thread that goes on until `stop`."""

    def __init__(self, port: int, cases: list[Case], report: Report, seed: int) -> None:
        self._port = port
        self._cases = cases
        self._report = report
        self._lock = threading.Lock()
        self._stop = threading.Event()
        good = [case for case in cases if case.answer is not None]
        bad = [case for case in cases if case.answer is None]
        hostile = (_slow_head, _half_body, _flood, _nonsense, _deaf, _reset)
        works: list[Callable[[random.Random], None]] = [
            *[partial(self._ask, good)] * 5,
            *[partial(self._ask, bad)] * 2,
            *(partial(self._disturb, way) for way in hostile),
        ]
        self._threads = [
            threading.Thread(target=work, args=(random.Random(f"{seed} {number}"),), daemon=True)
            for number, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all clients; one that waits for an answer that does not come is a failure."""
        self._stop.set()
        end = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                self._fail("a client still waits for an answer")

    def _ask(self, cases: list[Case], rng: random.Random) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            case = rng.choice(cases)
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                try:
                    connection.connect()
                except OSError:  # it has ended, or has not taken the connection
                    connection = None
                    self._count("no connection")
                    self._stop.wait(0.05)
                    continue
            try:
                connection.request("POST", "/predict", case.body, {"Content-Type": case.kind})
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                # A body larger than allowed is refused while it is still being sent.
                if case.name != "too large":
                    self._fail(f"{case.name}: no answer: {error!r}")
                connection = None
                continue
            self._judge(case, response.status, text)
            if response.getheader("connection") == "close":
                connection.close()
                connection = None

    def _judge(self, case: Case, status: int, text: bytes) -> None:
        self._count(f"{case.name}: {status}")
        try:
            answer = json.loads(text)
        except ValueError:
            self._fail(f"{case.name}: {status} without JSON: {text[:100]!r}")
            return
        if status == 200 and case.answer is not None:
            if not _same(answer, case.answer):
                self._fail(f"{case.name}: {answer} instead of {case.answer}")
        elif status not in case.statuses | BUSY:
            self._fail(f"{case.name}: {status} {answer}")

    def _disturb(self, way: Callable[[socket.socket, random.Random], None], rng: Any) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self._port), timeout=15) as connection:
                    way(connection, rng)
                self._count(f"hostile: {way.__name__.strip('_')}")
            self._stop.wait(0.05 + 0.2 * rng.random())

    def _count(self, name: str) -> None:
        with self._lock:
            self._report.statuses[name] += 1

    def _fail(self, message: str) -> None:
        with self._lock:
            self._report.failures.append(message)


def _same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal answers, but for the last digits of scores, which depend on the batch."""
    close = np.allclose(found.pop("scores", ()), expected["scores"], atol=1e-3)
    return close and found == {key: expected[key] for key in expected if key != "scores"}


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


def _slow_head(connection: socket.socket, rng: random.Random) -> None:
    for piece in (HEAD, b"x: 1\r\n", b"y: 2\r\n"):
        connection.sendall(piece)
        time.sleep(0.5 * rng.random())
    connection.recv(1000)  # until it is closed


def _half_body(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + rng.randbytes(50_000))
    if rng.random() < 0.5:
        connection.recv(1000)


def _flood(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(HEAD)
    for number in range(2000):
        connection.sendall(b"x-%d: %s\r\n" % (number, b"y" * rng.randrange(1000)))


def _nonsense(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(rng.randbytes(200) + b"\r\n\r\n")
    connection.recv(1000)


def _deaf(connection: socket.socket, rng: random.Random) -> None:
    connection.settimeout(1)
    for _ in range(500):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def _reset(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(HEAD + b"Content-Length: 3000\r\n\r\n" + rng.randbytes(rng.randrange(3000)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def live(
    folder: Path, cases: list[Case], way: str, seconds: float, report: Report, number: int
) -> None:
    """One life of the service, which ends by `way`."""
    scarce = number % 2 == 1
    service = Service(folder, scarce)
    try:
        traffic = Traffic(service.port, cases, report, number)
        memory = list(_sampled(service, seconds))
        begun = time.monotonic()
        try:
            status, output = service.end(way)
        except subprocess.TimeoutExpired:
            status, output = -1, "it did not end"
        took = time.monotonic() - begun
        traffic.stop()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait()
    what = f"{way}{', few files and one core' if scarce else ''}"
    report.lives.append(f"  {seconds:.0f} s, {what}: status {status} after {took:.1f} s")
    if status != ENDS[way]:
        report.failures.append(f"{what}: status {status} instead of {ENDS[way]}: {output[-2000:]}")
    if "Traceback" in output or len(output) > MOST_OUTPUT:
        report.failures.append(f"{what}: {len(output)} letters of output: {output[-2000:]}")
    quarters = [int(np.median(part)) for part in np.array_split(memory, 4)]
    report.memory.append("  MiB by quarters: " + ", ".join(f"{q / 2**20:.0f}" for q in quarters))
    if seconds >= 60 and quarters[3] - quarters[1] > MOST_GROWTH:
        report.failures.append(f"{what}: the memory grows: {quarters}")


def _sampled(service: Service, seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield service.memory()
        time.sleep(min(1.0, seconds / 8))


def soak(folder: Path, seconds: float, ways: Sequence[str] = tuple(ENDS)) -> Report:
    """Live and end in each way; the first life takes half of the time, to watch the memory."""
    report = Report()
    bodies = cases(folder)
    for number, way in enumerate(ways):
        share = seconds / 2 if number == 0 else seconds / 2 / max(1, len(ways) - 1)
        live(folder, bodies, way, share, report, number)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns 1 if something was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="(%(default)s)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="(a small one, random weights)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.model or Path(temporary) / "model"
        if args.model is None:
            export(folder)
        report = soak(folder, 60 * args.minutes)
    print(report.text())
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
