"""Clients that send too much, too slowly or nonsense, and an engine that does not answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

for package in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the service needs pip install .[serve]")

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


def ask(service: Any, body: bytes | None = None, path: str = "/predict") -> tuple[int, Any]:
    """Status and JSON of one request on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, 20)) as client:
        client.request("POST" if body is not None else "GET", path, body)
        response = client.getresponse()
        return response.status, json.loads(response.read())


def talk(service: Any, *pieces: bytes) -> bytes:
    """What comes back until the service closes the connection."""
    with service.connect() as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return received(connection)


def received(connection: Any) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):  # it was closed while we were still sending
        while piece := connection.recv(4096):
            found += piece
    return found


def error_of(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head and b"connection: close" in head
    return json.loads(body)["error"]


def test_what_is_no_request_is_refused_in_json(start: Any, picture: Any) -> None:
    service = start("--read-timeout", 1)
    for nonsense in (b"\x16\x03\x01hello\r\n\r\n", b"GET /%ff\xff HTTP/1.1\r\n\r\n"):
        answer = talk(service, nonsense)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert error_of(answer) == "not a valid HTTP request"
    broken = talk(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n")
    assert broken.startswith(b"HTTP/1.1 400 ")
    # A head without an end, in lines or in one; trailers without an end.
    many = [b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(400)]
    for pieces in ([HEAD, *many], [HEAD + b"x: ", *[b"y" * 50_000] * 10]):
        answer = talk(service, *pieces)
        assert answer == b"" or error_of(answer).startswith("more than 65536 bytes of headers")
    start_of_body = HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n"
    answer = talk(service, start_of_body, *many)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert error_of(talk(service, HEAD + b"x: 1")).endswith("complete request in time")  # 408
    upgrade = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    body = picture(90)
    assert error_of(talk(service, upgrade % len(body) + body)).startswith("no upgrade here")
    assert ask(service, picture(90))[0] == 200
    service.process.send_signal(signal.SIGTERM)
    assert service.end() == (0, "ended\n")  # strangers write nothing into the log


def test_pipelined_requests_are_answered_in_order(start: Any, picture: Any) -> None:
    service = start()
    body = picture(90)
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = talk(service, one * 3 + last)
    assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [200, 200, 200, 404]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="limits as on Linux")
def test_clients_that_hold_connections_do_not_shut_others_out(start: Any, picture: Any) -> None:
    service = start("--read-timeout", 5, files=128)
    connections = [service.connect() for _ in range(150)]
    for number, connection in enumerate(connections):
        with contextlib.suppress(OSError):  # those that had to make room
            if number % 3 == 0:
                connection.sendall(HEAD)
            elif number % 3 == 1:
                connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\nabc")
    for _ in range(5):
        assert ask(service, picture(90))[0] == 200
    service.process.send_signal(signal.SIGTERM)
    assert service.end() == (0, "ended\n")
    for connection in connections:
        connection.close()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the child in /proc")
@pytest.mark.parametrize("told", [True, False])
def test_an_engine_that_does_not_answer(start: Any, picture: Any, told: bool) -> None:
    service = start("--timeout", 0.5, "--read-timeout", 1)
    assert ask(service, picture(90))[0] == 200
    os.kill(service.engine(), signal.SIGSTOP)
    status, answer = ask(service, picture(90))
    assert (status, answer["error"]) == (504, "no answer within 0.5 seconds")
    time.sleep(0.2)
    status, health = ask(service, path="/healthz")
    assert (status, health["status"]) == (503, "engine does not answer")
    if told:
        service.process.send_signal(signal.SIGTERM)
    status, output = service.end()  # by itself, after three times the limit
    assert (status, output) == (1, "error: the engine's process does not answer\n")


def test_a_full_queue_is_refused_by_the_head(start: Any, picture: Any) -> None:
    service = start("--queue", 1, "--max-batch", 1, "--timeout", 20)
    body = picture(90, height=1000, width=1500)
    engine = service.engine()
    os.kill(engine, signal.SIGSTOP)
    head = HEAD + b"Content-Length: %d\r\n\r\n"
    with service.connect() as first, service.connect() as second, service.connect() as third:
        first.sendall(head % len(body) + body)
        time.sleep(0.3)
        second.sendall(head % len(body) + body)
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        expects = head.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
        third.sendall(expects % len(body))
        refused = received(second)
        assert refused.startswith(b"HTTP/1.1 429 ") and b"Retry-After: 1" in refused
        assert b"busy: 1 requests are being worked on" in refused
        assert refused.count(b"HTTP/1.1 ") == 2 and b"HTTP/1.1 200 " in refused
        answer = received(third)
        assert answer.startswith(b"HTTP/1.1 429 ") and error_of(answer).startswith("busy")
        os.kill(engine, signal.SIGCONT)
        assert first.recv(100).startswith(b"HTTP/1.1 200 ")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, 20)) as client:
        client.request("GET", "/metrics")
        assert b'ppcls_requests_total{status="429"} 2.0' in client.getresponse().read()
