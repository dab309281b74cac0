"""The real service in a process: load, clients that misbehave, and how it ends."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

for package in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the service needs pip install .[serve]")

ROOT = Path(__file__).resolve().parents[2]


class Client(threading.Thread):
    """Posts an image again and again over one connection; opens a new one when it is closed."""

    def __init__(self, port: int, body: bytes, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._body, self._stop_now = port, body, stop
        self.answers: list[tuple[int, bytes]] = []
        self.lost = 0  # requests that were taken and got no answer
        self.refused = False

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop_now.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
                try:
                    connection.connect()
                except OSError:
                    self.refused = True
                    return
            try:
                connection.request("POST", "/predict", self._body)
                response = connection.getresponse()
                self.answers.append((response.status, response.read()))
            except (http.client.HTTPException, OSError):
                self.lost += 1
                return
            if response.getheader("connection") == "close":
                connection.close()
                connection = None


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals as on POSIX")
@pytest.mark.parametrize("group", [False, True])
def test_nothing_is_lost_when_it_is_told_to_end(start: Any, picture: Any, group: bool) -> None:
    service = start()
    stop = threading.Event()
    clients = [Client(service.port, picture(90), stop) for _ in range(8)]
    for client in clients:
        client.start()
    while sum(len(client.answers) for client in clients) < 40:
        time.sleep(0.01)
    if group:  # as systemd, timeout and supervisors do
        os.killpg(service.process.pid, signal.SIGTERM)
    else:
        service.process.send_signal(signal.SIGTERM)
    status, output = service.end()
    for client in clients:
        client.join(20)
    statuses = Counter(status for client in clients for status, _ in client.answers)
    assert (status, output.strip()) == (0, "ended")
    assert sum(client.lost for client in clients) == 0
    assert all(client.refused for client in clients)
    assert set(statuses) == {200}
    assert len({body for client in clients for _, body in client.answers}) == 1


def test_a_request_that_is_being_sent_is_finished(start: Any, picture: Any) -> None:
    service = start()
    body = picture(90)
    with service.connect() as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:100])
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)  # longer than the grace of idle connections
        with pytest.raises(OSError):
            service.connect()
        connection.sendall(body[100:])
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
    assert service.end()[0] == 0


def test_slow_and_vanishing_clients_disturb_nobody(start: Any, picture: Any) -> None:
    service = start("--read-timeout", 1, "--queue", 2)
    body = picture(90)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    slow = [service.connect() for _ in range(6)]  # more than the queue has places
    for connection in slow:
        connection.sendall(head + body[:10])
    gone = service.connect()
    gone.sendall(head + body[:10])
    gone.close()
    good = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    good.request("POST", "/predict", body)
    assert good.getresponse().status == 200
    for connection in slow:
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()
    good.close()
    service.process.send_signal(signal.SIGINT)
    assert service.end() == (0, "ended\n")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the child in /proc")
def test_the_death_of_the_engine_ends_the_service(start: Any) -> None:
    service = start()
    os.kill(service.engine(), signal.SIGKILL)
    status, output = service.end()
    assert status == 1 and "the engine's process died" in output


def test_what_cannot_start_says_why(start: Any, folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = run("--model", folder, "--port", port)
    assert found.returncode == 1 and f"--port {port}: cannot listen there" in found.stderr
    assert "Traceback" not in found.stderr
    found = run("--model", tmp_path, "--port", 0)
    assert found.returncode == 1 and "inference.yml: no such file" in found.stderr
    assert run("--model", folder, "--port", "http").returncode == 2


def test_it_listens_on_this_machine_only(start: Any, picture: Any) -> None:
    service = start("--topk", 1, "--max-batch", 2)
    assert service.url.startswith("http://127.0.0.1:")
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    connection.request("POST", "/predict", picture(9))
    assert len(json.loads(connection.getresponse().read())["class_ids"]) == 1
    connection.close()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "server.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_answers_do_not_wait_for_more_to_send() -> None:
    from ppcls_lite.serve.server import bind

    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname()):
            accepted, _ = bound.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_folder_with_maps_shows_where_it_looked(
    start: Any, folder_with_maps: Path, picture: Any
) -> None:
    service = start("--model", folder_with_maps)
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("POST", "/predict?map=2", picture(200, height=30, width=50))
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == 200 and len(answer["class_ids"]) == 2, answer
    layer = cv2.imdecode(
        np.frombuffer(base64.b64decode(answer["layer"]), np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert layer.shape == (30, 50, 4)
    os.kill(service.process.pid, signal.SIGTERM)
    assert service.end() == (0, "ended\n")
