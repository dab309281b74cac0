"""Before ranks exchange tensors they meet here, so that waiting has one time-out and a name.

gloo gives up after 30 seconds, which cannot be changed from Python, and its error does not tell a
rank that is slow from one that is dead. So each rank has a connection to a small server in rank 0,
says when it has arrived, and goes on when all have; every second it shows that it is alive. The
exchange itself then starts on all ranks at once. A meeting takes a fraction of a millisecond.
Read before: distributed.py, which uses it.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BEAT = 1.0  # seconds between two signs of life
LINGER = 120.0  # seconds for which a rank that has failed waits for the others
SILENT = 10.0  # seconds without one, after which a rank counts as stopped
PLACE = "ppcls_lite/meeting"  # in the run's key-value store: port and token of the server
ALIVE, ARRIVED, FAILED, GO, STOP, END = b".", b"a", b"f", b"g", b"s", b"x"


class LostError(Exception):
    """A meeting that will not take place; the message names the rank, and what is known of it."""


class StopError(LostError):
    """All ranks are here, and one of them has failed: they stop, and can still meet."""


class Meeting:
    """This rank's connection to the server, which rank 0 starts.

    store: the run's key-value store. host: rank 0's address. patience: seconds for which the
    others wait for a rank. stall: seconds for which they wait for one that gives no sign of life,
    if that is less. Raises OSError where there is no connection.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        store: Any,
        host: str,
        patience: float,
        stall: float = math.inf,
    ) -> None:
        self._first = f"rank 0 on {host}"
        if rank == 0:
            server = socket.create_server(("", 0), backlog=size)
            token = secrets.token_hex(16)
            _Server(server, size, token, patience, stall).start()
            store.set(PLACE, f"{server.getsockname()[1]} {token}")
            host = "127.0.0.1"
        port, token = bytes(store.get(PLACE)).decode().split()
        self._socket = _quick(socket.create_connection((host, int(port)), timeout=patience))
        self._socket.settimeout(min(max(patience, SILENT), stall))
        self._socket.sendall(f"{token} {rank} {socket.gethostname()}\n".encode())
        self._lock = threading.Lock()
        self._rest = b""
        threading.Thread(target=self._beat, daemon=True).start()
        # A data worker must not keep the connection of a rank that was killed.
        _in_forked_processes(self._socket.close)

    def meet(self, failed: bool = False) -> None:
        """Return when all ranks are here.

        Raises LostError if one will not come, StopError on all ranks if one of them has `failed`.
        """
        end = time.monotonic() + LINGER
        try:
            with self._lock:
                self._socket.sendall(FAILED if failed else ARRIVED)
            while True:
                data = self._rest or self._socket.recv(4096)
                if not data:
                    raise LostError(
                        f"{self._first} has ended without a message: killed, perhaps for lack of "
                        "memory"
                    )
                self._rest, kind = data[1:], data[:1]
                if kind == GO:
                    return
                if kind == STOP:
                    raise StopError("a rank has failed")
                if kind == END:
                    raise LostError(self._text())
                if failed and time.monotonic() > end:
                    raise LostError(f"the others have not come within {LINGER:g} s")
        except TimeoutError:
            raise LostError(
                f"{self._first} has given no sign of life for "
                f"{self._socket.gettimeout():g} s: stopped, or its machine or the network is gone"
            ) from None
        except OSError as error:
            raise LostError(f"the connection to {self._first} broke ({error})") from None

    def _text(self) -> str:
        while not self._rest.endswith(b"\n") and (more := self._socket.recv(4096)):
            self._rest += more
        return self._rest.decode().strip()

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # the end of the process, or of rank 0
            while True:
                time.sleep(BEAT)
                with self._lock:
                    self._socket.sendall(ALIVE)


@dataclass
class _Guest:
    """A rank as the server knows it."""

    socket: socket.socket
    host: str
    heard: float  # when, by the monotonic clock
    arrivals: int = 0
    failed: bool = False
    gone: bool = False


class _Server(threading.Thread):
    """Counts the arrivals of all ranks, and lets them go when the last one is there."""

    def __init__(
        self, server: socket.socket, size: int, token: str, patience: float, stall: float
    ) -> None:
        super().__init__(daemon=True)
        self._server, self._size, self._token = server, size, token
        self._patience, self._stall = patience, stall
        self._guests: dict[int, _Guest] = {}
        self._meetings = 0
        self._since: float | None = None  # when the first one arrived at the next meeting
        self._selector = selectors.DefaultSelector()
        _in_forked_processes(self._close)

    def run(self) -> None:
        text, beat = self._admit(), time.monotonic()
        while not text:
            for key, _ in self._selector.select(BEAT):
                self._hear(key.data)
            text = self._go_or_why_not()
            if time.monotonic() - beat > BEAT:
                beat = time.monotonic()
                self._send(ALIVE)
        self._send(END + text.encode() + b"\n")

    def _admit(self) -> str | None:
        """Wait until all ranks have come, strangers are sent away; the reason if one has not."""
        self._server.settimeout(BEAT)
        end = time.monotonic() + self._patience
        while len(self._guests) < self._size:
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                self._send(ALIVE)
                if time.monotonic() > end:
                    missing = min(set(range(self._size)) - self._guests.keys())
                    return f"rank {missing} has not come within {self._patience:g} s"
                continue
            connection.settimeout(SILENT)
            with contextlib.suppress(OSError, ValueError):
                token, rank, host = _line(connection).decode().split()
                if hmac.compare_digest(token, self._token):
                    guest = _Guest(_quick(connection), host, time.monotonic())
                    self._guests[int(rank)] = guest
                    self._selector.register(connection, selectors.EVENT_READ, guest)
                    connection.setblocking(False)
                    continue
            connection.close()
        self._server.close()
        return None

    def _hear(self, guest: _Guest) -> None:
        try:
            data = guest.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        guest.heard, guest.gone = time.monotonic(), not data
        guest.failed |= FAILED in data
        guest.arrivals += data.count(ARRIVED) + data.count(FAILED)
        if guest.gone:
            self._selector.unregister(guest.socket)

    def _go_or_why_not(self) -> str | None:
        """Let all go if they are here; otherwise the reason why they never will be, if any."""
        here = [rank for rank, guest in self._guests.items() if guest.arrivals > self._meetings]
        if len(here) == self._size:
            self._meetings, self._since = self._meetings + 1, None
            failed = any(guest.failed for guest in self._guests.values())
            self._send(STOP if failed else GO)
            for guest in self._guests.values():
                guest.failed = False
        elif here:
            now = time.monotonic()
            self._since = self._since or now
            for rank, guest in self._guests.items():
                if rank in here:
                    continue
                name, silence = f"rank {rank} on {guest.host}", now - guest.heard
                if guest.gone:
                    return f"{name} has ended without a message: killed, perhaps for lack of memory"
                waited = now - self._since
                late = waited > max(self._patience, 3 * BEAT)  # a beat or two may be late
                silent = silence > min(SILENT, max(self._patience, 2 * BEAT))
                text = f"the others have waited {waited:.0f} s for it"
                if silence > self._stall or (late and silent):
                    return (
                        f"{name} has given no sign of life for {silence:.0f} s: stopped, or its "
                        f"machine or the network is gone; {text}"
                    )
                if late:
                    return f"{name} is alive but too slow: {text}"
        return None

    def _send(self, data: bytes) -> None:
        for _, guest in sorted(self._guests.items(), reverse=True):  # rank 0 may end us: last
            with contextlib.suppress(OSError):
                guest.socket.send(data)

    def _close(self) -> None:
        for connection in (self._server, *(guest.socket for guest in self._guests.values())):
            connection.close()


def _in_forked_processes(call: Callable[[], None]) -> None:
    if os.name == "posix":
        os.register_at_fork(after_in_child=call)


def _line(connection: socket.socket) -> bytes:
    """What comes up to the end of the line, and not a byte more: an arrival may follow at once."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 999 and (byte := connection.recv(1)):
        line += byte
    return line


def _quick(connection: socket.socket) -> socket.socket:
    """Without the delay by which small messages are collected."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
