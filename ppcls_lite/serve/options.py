"""What the operator of the service decides; the command line (cli.py) fills it in."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

from ppcls_lite.errors import UserError

_MOST = {  # what the machine or a library can do at all
    "max_batch": 1024,
    "max_wait": 60,
    "queue": 10_000,
    "max_pixels": 178_000_000,  # Pillow refuses more by itself
    "read_timeout": 86_400,
    "timeout": 86_400,
    "decode_threads": 256,
}


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
        memory: bytes for uploads (a quarter) and for decoding; beside them there are the program
            itself and the engine's process.

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
    memory: int = 1_000_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = getattr(self, field.name), _MOST.get(field.name, sys.maxsize)
            least = 0 if field.name == "max_wait" else 1e-9
            if not least <= value <= most:  # never true of NaN
                limit = "" if most == sys.maxsize else f" and at most {most:,}"
                raise UserError(f"{field.name}: expected a number above 0{limit}, found {value}")
        if self.max_bytes > self.upload_memory:
            raise UserError(
                f"max_bytes: one upload of {self.max_bytes:,} bytes does not fit into the quarter "
                f"of the memory that uploads have ({self.upload_memory:,} bytes); give more memory"
            )

    @property
    def upload_memory(self) -> int:
        """Bytes for bodies that arrive, or wait to be decoded."""
        return self.memory // 4

    @property
    def decode_memory(self) -> int:
        """Bytes for images that are being decoded."""
        return self.memory - self.upload_memory
