"""One file over the network, whole or not at all. Read next: pretrained.py, hub.py."""

from __future__ import annotations

import hashlib
import logging
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from ppcls_lite.system.files import atomic_file

logger = logging.getLogger("ppcls_lite")

_TIMEOUT_S = 20
_BLOCK = 1 << 16
_PICKLE = b"\x80"  # how every pickle of protocol 2 and later begins


class Failed(Exception):
    """Why there is no download."""


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects, without the key to one host on the way to another."""

    def redirect_request(
        self, request: Any, file: IO[bytes], code: int, text: str, headers: HTTPMessage, url: str
    ) -> Any:
        made = super().redirect_request(request, file, code, text, headers, url)
        if made is not None and urlsplit(url).netloc != urlsplit(request.full_url).netloc:
            made.remove_header("Authorization")
        return made


def download(
    address: str, path: Path, headers: Mapping[str, str] | None = None, sha256: str | None = None
) -> None:
    """Stream `address` into `path`, which appears only when all announced bytes have come.

    sha256: what the file's checksum has to be. Raises Failed.
    """
    logger.info("downloading %s to %s", address, path)
    try:
        request = urllib.request.Request(address, headers=dict(headers or {}))
        response = urllib.request.build_opener(_SameHost).open(request, timeout=_TIMEOUT_S)
    except (OSError, HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        raise Failed(getattr(error, "reason", None) or error) from None
    hidden = not sys.stderr.isatty()
    digest = hashlib.sha256()
    with response, atomic_file(path) as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, disable=hidden) as bar:
            for block in _blocks(response, size):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
        if sha256 and digest.hexdigest() != sha256.lower():
            raise Failed(f"its SHA-256 is {digest.hexdigest()}, not {sha256}")


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _blocks(response: HTTPResponse, size: int) -> Iterator[bytes]:
    """The body in pieces; network errors get a name of their own, apart from those of the disk."""
    received = 0
    try:
        while block := response.read(_BLOCK):
            if not received and not _is_expected(block):
                raise Failed("what came is no file of weights; is a proxy in between?")
            received += len(block)
            yield block
    except (OSError, HTTPException) as error:
        raise Failed(f"it broke off after {received} bytes: {error}") from error
    if size and received != size:
        raise Failed(f"it broke off after {received} of {size} bytes")


def _is_expected(block: bytes) -> bool:
    """A pickle, safetensors (eight bytes of length, then JSON), or a JSON file."""
    return block.startswith((_PICKLE, b"{")) or block[8:9] == b"{"
