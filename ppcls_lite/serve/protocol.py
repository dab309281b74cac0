"""HTTP/1.1 on one connection: uvicorn's protocol with limits, and refusals that cost little.

uvicorn bounds neither a head's size nor its time, nor the number of connections. Here:

- what arrives without becoming body (a head, trailers, chunk extensions) is bounded (431);
- a connection that sends no complete head for a while, or does not take its answer, is closed;
- at the limit of connections, the one that has been idle longest makes room for a new one;
- while the queue is full, `POST /predict` is refused by its head: the body is thrown away as it
  arrives, and the answer comes after a pause, so that clients that try again at once do not take
  the processor from those who are served;
- what is no HTTP is refused in JSON, like everything else.

Read before: server.py. Read next: refusal.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ppcls_lite.serve.refusal import PAUSE, Coming, Refused, as_json

HEAD_BYTES = 65_536
_WARNED = "closed: it did not send a complete request in time"


class Gate:
    """Who may come in, for all connections of one service; the event loop's thread only.

    Args:
        limit: connections, at most.
        head_seconds: for a complete head, and for the rest of a body that nobody waits for.
        request_seconds: from a head to the end of its answer.
        refusal: why a prediction is refused now, before its body is read; `None`: it is not.
        expect: told of each that is not when it is complete; its handler has it in its `state`.
        count: told the status of each refusal of a prediction.

    Attributes:
        closing: every answer is the last one of its connection.
    """

    def __init__(
        self,
        limit: int,
        head_seconds: float,
        request_seconds: float,
        refusal: Callable[[], Refused | None],
        expect: Callable[[Coming], None],
        count: Callable[[int], None],
    ) -> None:
        self.limit = limit
        self.refusal = refusal
        self.expect = expect
        self.count = count
        self.closing = False
        self._seconds = (head_seconds, request_seconds)
        # Since when, the longest first: dicts keep the order of insertion.
        self._idle: dict[LimitedProtocol, float] = {}
        self._receiving: dict[LimitedProtocol, float] = {}  # bodies
        self._busy: dict[LimitedProtocol, float] = {}

    @property
    def crowded(self) -> bool:
        """Whether connections are too scarce to let anybody wait for a refusal."""
        return 2 * self._count > self.limit

    @property
    def _count(self) -> int:
        return len(self._idle) + len(self._receiving) + len(self._busy)

    def enter(self, connection: LimitedProtocol) -> None:
        """A new connection; at the limit, the longest idle one goes, or else the body that has
        been arriving longest, or else this one."""
        if self._count >= self.limit:
            waiting = next(iter(self._idle), None)
            victim = waiting or next(iter(self._receiving), connection)
            self.leave(victim)
            victim.end(503, "busy: too many connections", tell=victim is not waiting)
        self.idle(connection)

    def idle(self, connection: LimitedProtocol) -> None:
        """From now on it waits for a head."""
        self.leave(connection)
        if not connection.transport.is_closing():
            self._idle[connection] = connection.loop.time()

    def receiving(self, connection: LimitedProtocol) -> None:
        """From now on a body arrives; how long it may take is the service's business."""
        self.leave(connection)
        self._receiving[connection] = connection.loop.time()

    def busy(self, connection: LimitedProtocol) -> None:
        """From now on a request is answered."""
        self.leave(connection)
        self._busy[connection] = connection.loop.time()

    def leave(self, connection: LimitedProtocol) -> None:
        """It is closed."""
        self._idle.pop(connection, None)
        self._receiving.pop(connection, None)
        self._busy.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Close what has taken too long; to be called several times a second."""
        for waiting, seconds in zip((self._idle, self._busy), self._seconds, strict=True):
            for connection, since in list(waiting.items()):
                if now - since < seconds:
                    break
                self.leave(connection)
                if waiting is self._idle:
                    connection.end(408, _WARNED)
                else:  # it does not read; the service's own limits are shorter
                    connection.transport.abort()


class _Shed:
    """In the place of a request's cycle: it is refused; its body is thrown away."""

    response_complete = True

    def __init__(self, refused: Refused, close: bool) -> None:
        self.message_event = asyncio.Event()  # uvicorn sets it when the client has gone
        self.refused = refused
        self.close = close
        self.received = close
        self.paused = True


class LimitedProtocol(HttpToolsProtocol):
    """One connection; the arguments but the first are uvicorn's."""

    def __init__(
        self,
        gate: Gate,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gate = gate
        self._unread = 0  # bytes since the parser last came to a request's end, or found body
        self._receiving = False  # a body
        self._shed: _Shed | None = None
        self._coming: Coming | None = None  # a prediction that has been let in

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gate.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not (self._unread or self._receiving or self._answering):
            self._gate.idle(self)  # the time of the next head begins
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEAD_BYTES and not self.transport.is_closing():
            self.end(431, f"more than {HEAD_BYTES} bytes of headers")

    def on_headers_complete(self) -> None:
        self._unread = 0
        self._receiving = True
        post = self.parser.get_method() == b"POST"
        if post and self.parser.should_upgrade():  # the parser takes the body for another protocol
            self.end(400, "no upgrade here: send plain HTTP/1.1", tell=True)
            return
        if self._shed is not None:  # more requests in one piece: their answers keep the order
            self._answer_shed()
        if post and self.url == b"/predict" and not self._answering:
            refused = self._gate.refusal()
            if refused is not None:
                self._shed_request(refused)
                return
            self._coming = self.scope["state"]["coming"] = Coming()
        super().on_headers_complete()
        self._gate.receiving(self)

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        self._receiving = False
        super().on_message_complete()
        if self._answering:
            self._gate.busy(self)
        if self._coming is not None:
            self._gate.expect(self._coming)
            self._coming = None
        if self._shed is not None:
            self._shed.received = True
            self._shed_if_done()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._answering:  # the next of several requests in one piece
            self._gate.busy(self)
        else:
            self._gate.idle(self)

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses."""
        self.end(400, "not a valid HTTP request", tell=True)

    def shutdown(self) -> None:
        """The service ends: close when what is at work is answered."""
        if self._shed is not None:
            self._shed.close = True
            self._answer_shed()
        super().shutdown()

    def end(self, status: int, message: str, tell: bool = False) -> None:
        """Close; whoever has begun to send something (or `tell`) is told why."""
        if self.transport.is_closing():
            return
        if self._shed is not None:
            self._shed.close = True
            self._answer_shed()
        elif self._unread or tell:
            self.transport.write(_response(Refused(status, message), close=True))
        self.transport.close()

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """HTTP/2 and websockets are asked for in vain; a GET is answered as it is."""

    def _shed_request(self, refused: Refused) -> None:
        self._gate.count(refused.status)
        last = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        last |= self._gate.closing
        self.cycle = self._shed = _Shed(refused, close=self.expect_100_continue)  # type: ignore
        if self._gate.crowded:
            self._shed.paused = False
        else:
            self.flow.pause_reading()
            self.loop.call_later(PAUSE, self._end_pause, self._shed)
        self._shed.close |= last
        self._shed_if_done()

    def _end_pause(self, shed: _Shed) -> None:
        if shed is self._shed and not self.transport.is_closing():
            shed.paused = False
            self.flow.resume_reading()
            self._shed_if_done()

    def _shed_if_done(self) -> None:
        if self._shed is not None and self._shed.received and not self._shed.paused:
            self._answer_shed()

    def _answer_shed(self) -> None:
        shed, self._shed = self._shed, None
        if shed is None or self.transport.is_closing():
            return
        self.transport.write(_response(shed.refused, shed.close))
        if shed.close:
            self.transport.close()
        self.on_response_complete()


def _response(refused: Refused, close: bool) -> bytes:
    body = as_json(refused.message)
    headers = {
        **refused.headers,
        "content-type": "application/json",
        "content-length": str(len(body)),
        **({"connection": "close"} if close else {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"".join((STATUS_LINE[refused.status], lines.encode(), b"\r\n", body))
