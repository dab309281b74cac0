"""Start, run and end: the service on a socket, by uvicorn.

The end (SIGTERM, Ctrl-C), in this order: no new connections are accepted; for a short while the
open ones may still send a request, and every answer says `Connection: close`; requests that are
being worked on are finished; the engine's process ends; exit status 0. So no request that was
received stays without an answer. If the engine's process dies, or does not answer for long, the
service ends likewise, with exit status 1, for a supervisor to start it again. Read before: app.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcls_lite.errors import UserError
from ppcls_lite.serve.app import Service, make_app
from ppcls_lite.serve.protocol import Gate, LimitedProtocol
from ppcls_lite.serve.refusal import PAUSE

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

GRACE = 1.0  # seconds that open connections have for a last request
_SLACK = 5  # seconds after the last request's own limit
_CONNECTIONS = 1000
_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 20  # of mallopt(3)
_OTHER_FILES = 64
# asyncio takes as many connections at once as its backlog says, before one can be turned away.
_ACCEPTED, _BACKLOG = 16, 1024


class Server(uvicorn.Server):
    """uvicorn with the end described above."""

    def __init__(self, service: Service, listening: Callable[[], None]) -> None:
        self._service = service
        self._listening = listening
        options = service.options
        answer_seconds = options.timeout + options.read_timeout + PAUSE
        self._gate = Gate(
            connection_limit(),
            options.read_timeout,
            answer_seconds + _SLACK,
            service.refusal,
            service.queue.expect,
            lambda status: service.metrics.requests.labels(status).inc(),
        )
        config = uvicorn.Config(
            _ClosesWhenDraining(make_app(service), service),
            log_config=None,
            # A line for each request that is none would let strangers fill the log, and stop the
            # service where nobody reads the pipe that it writes to.
            log_level="error",
            access_log=False,
            server_header=False,
            http=partial(LimitedProtocol, self._gate),  # type: ignore[arg-type]
            backlog=_ACCEPTED,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=math.ceil(answer_seconds) + _SLACK,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the signal is not raised again at the end: the status is ours."""
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        self._gate.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter) or self._service.failure is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(_BACKLOG)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end."""
        self._service.draining = self._gate.closing = True
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + GRACE
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class _ClosesWhenDraining:
    """Adds `Connection: close` to the answers when the service is about to end."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._service.draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing)


def bind(host: str, port: int) -> socket.socket:
    """A socket with that address, which does not listen yet; port 0 takes a free one.

    uvicorn makes it listen when requests can be answered; before, clients are refused at once
    instead of waiting for the network to be loaded.

    Raises:
        UserError: the address is not ours or is in use.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere the option means something else
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it; with Nagle's algorithm each answer takes 40 ms more.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror}"
        ) from error
    return bound


def connection_limit() -> int:
    """How many connections may be open: some files are needed for everything else."""
    if resource is None:
        return _CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(8, min(_CONNECTIONS, files - _OTHER_FILES))


def serve(service: Service, bound: socket.socket, listening: Callable[[], None]) -> str | None:
    """Answer requests until a signal ends it; `listening` is called when connections are taken.

    Returns:
        Why it had to end, in words; `None` after a signal.
    """
    with contextlib.suppress(OSError, AttributeError):
        # glibc otherwise keeps what large images needed, in each thread's heap.
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED)
    Server(service, listening).run(sockets=[bound])
    return service.failure
