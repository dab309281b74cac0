"""Requests that get no answer but a reason, and the counters that bound what is held.

Each status is used for one kind of reason: 408 too slow, 413 too many bytes or pixels, 415 not an
image, 422 a damaged one, 429 too many requests at once, 431 too much head, 503 the service ends,
or its engine died or does not answer, 504 too late. Read next: upload.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from types import TracebackType

# Seconds before a refusal for lack of places is sent, as many as it then asks the client to wait:
# whoever asks again at once would otherwise keep the event loop busy with refusals.
PAUSE = 1.0


class Refused(Exception):
    """The request is answered with `status` and `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"Retry-After": f"{PAUSE:.0f}"} if status in (429, 503) else {}


def as_json(message: str) -> bytes:
    """The body of every refusal."""
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")


class Coming:
    """A request that has been let in by its head; see `Places`."""

    came = False


class Places:
    """At most `limit` may be inside the `with` block; one more is refused at once, with 429.

    Whose body is complete is `expect`ed until its handler says `came`: many requests that arrive
    together would otherwise all see the one free place. A body on its way keeps none.
    Used by the event loop's thread only, so it needs no lock.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._coming: set[Coming] = set()
        self.taken = 0

    def refusal(self) -> Refused | None:
        """Why one more would be refused by its head; `None`: there is room."""
        return self._refusal(self.taken + len(self._coming))

    def _refusal(self, taken: int) -> Refused | None:
        if taken < self._limit:
            return None
        return Refused(429, f"busy: {self._limit} {self._what}; try again in a second")

    def expect(self, coming: Coming) -> None:
        """It is complete, and its handler is about to ask for a place."""
        if not coming.came:
            self._coming.add(coming)

    def came(self, coming: Coming | None) -> None:
        """It asks now, or never will."""
        if coming is not None:
            coming.came = True
            self._coming.discard(coming)

    def __enter__(self) -> Places:
        refused = self._refusal(self.taken)
        if refused is not None:
            raise refused
        self.taken += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.taken -= 1


class Upload:
    """One body that arrives, or waits to be decoded; made by `Uploads`.

    Attributes:
        reading: the task that reads it, while it arrives.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self.size = 0
        self.reading: asyncio.Task[bytearray] | None = None

    def grow(self, size: int) -> None:
        """So many bytes more have arrived; where they do not fit, a body is given up."""
        self.size += size
        self._uploads.taken += size
        self._uploads.make_room()

    def release(self) -> None:
        """Its bytes are no longer held."""
        self._uploads.taken -= self.size
        self.size = 0


class Uploads:
    """The memory of all bodies. When it is full, those that have been arriving longest give way.

    So slow clients, however many, take no place from quick ones. The event loop's thread only.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arriving: dict[Upload, None] = {}  # the longest first
        self.taken = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[Upload]:
        """A body, for as long as its bytes may be held."""
        upload = Upload(self)
        self._arriving[upload] = None
        try:
            yield upload
        finally:
            self.arrived(upload)
            upload.release()

    def arrived(self, upload: Upload) -> None:
        """It is complete, and can no longer be given up."""
        self._arriving.pop(upload, None)

    def make_room(self) -> None:
        """Give up bodies until the limit is kept."""
        while self.taken > self._limit and self._arriving:
            oldest = next(iter(self._arriving))
            self.arrived(oldest)
            oldest.release()
            if oldest.reading is not None:
                oldest.reading.cancel()


class Memory:
    """Bytes that threads may use at once; whoever wants more than are left waits for its turn."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Use so many bytes; more than there are in all are used alone."""
        size = min(size, self._limit)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()
