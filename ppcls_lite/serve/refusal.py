"""Requests that get no answer but a reason, and the counters that keep the house from overflowing.

Each status is used for one kind of reason: 408 body too slow, 413 too many bytes or pixels, 415 not
an image, 422 a damaged one, 429 too many requests at once, 503 the service ends or its engine died,
504 too late. Read next: upload.py.
"""

from __future__ import annotations

from types import TracebackType


class Refused(Exception):
    """The request is answered with `status` and `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"Retry-After": "1"} if status in (429, 503) else {}


class Places:
    """At most `limit` may be inside the `with` block; one more is refused at once, with 429.

    Used by the event loop's thread only, so it needs no lock.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self.taken = 0

    def __enter__(self) -> Places:
        if self.taken >= self._limit:
            raise Refused(429, f"busy: {self._limit} {self._what}; try again in a second")
        self.taken += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.taken -= 1
