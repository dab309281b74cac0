"""What the operator of the service decides; the command line (cli.py) fills it in."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ppcls_lite.errors import UserError


@dataclass(frozen=True)
class ServeOptions:
    """Limits and sizes of the service.

    Attributes:
        max_batch: images that run at once, at most.
        max_wait: seconds that an image waits for others that are being decoded.
        queue: requests that are decoded, wait or run at any time; one more is answered 429.
        max_bytes: size of one upload; more is answered 413.
        max_pixels: width x height that an image file may announce; more is answered 413.
        read_timeout: seconds for the arrival of a request's body (408).
        timeout: seconds from the complete body to the answer (504).
        decode_threads: images that are decoded at once.

    Raises:
        UserError: a number that makes no sense.
    """

    max_batch: int = 8
    max_wait: float = 0.002
    queue: int = 64
    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000
    read_timeout: float = 10.0
    timeout: float = 10.0
    decode_threads: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if (value <= 0 and field.name != "max_wait") or value < 0:
                raise UserError(f"{field.name}: expected a number above 0, found {value}")

    @property
    def uploads(self) -> int:
        """Bodies that are read at once; a slow client holds one of these, and no place in the
        queue."""
        return 4 * self.queue
