"""From a request to the bytes of one image file, and what its header says before it is decoded.

A client may send anything: the size is checked while the body arrives, the time it takes too, and
the number of pixels is read from the file's header, because a file of a few kilobytes can announce
an image of gigabytes. Read next: app.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ppcls_lite.errors import ImageError
from ppcls_lite.inference.preprocess import KNOWN, TooLarge, is_known, read_header
from ppcls_lite.serve.options import ServeOptions
from ppcls_lite.serve.refusal import Refused, Upload

_ENVELOPE = 16_384  # bytes that a multipart form may have around the file
_FIELDS = 16  # of a form beside the file
# Per pixel while a file is decoded: a progressive JPEG keeps all its coefficients (2 bytes each)
# beside the picture; Pillow's way has up to five copies of four bytes.
_JPEG_BYTES, _OTHER_BYTES = 10, 20


async def read_image(request: Request, options: ServeOptions, upload: Upload) -> bytes:
    """The image file in a request, sent as the body or as a file of a multipart form.

    Raises:
        Refused: 408, 413, 422 or 429; starlette's ClientDisconnect if the client has gone.
    """
    form = _content_type(request.headers) == "multipart/form-data"
    limit = options.max_bytes + (_ENVELOPE if form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_many_bytes(options)
    task = asyncio.ensure_future(_read(request, limit, options, upload))
    upload.reading = task
    try:
        done, _ = await asyncio.wait({task}, timeout=options.read_timeout)
    finally:
        task.cancel()
    if not done:
        raise Refused(408, f"the body did not arrive within {options.read_timeout:g} seconds")
    if task.cancelled():
        raise Refused(429, "busy: no memory for a slow upload; try again in a second")
    body = task.result()
    del task
    upload.reading = None  # it holds the body, too
    data = await _file_of_form(request, body) if form else bytes(body)
    body.clear()
    if len(data) > options.max_bytes:
        raise _too_many_bytes(options)
    if not data:
        raise Refused(422, "empty: expected an image file as the body or in a multipart form")
    return data


def check_header(data: bytes, max_pixels: int) -> int:
    """Look at an image file's header; nothing is decoded.

    Returns:
        How many bytes of memory its decoding takes at most.

    Raises:
        Refused: 413 more than `max_pixels`, 415 not an image, 422 the header is damaged.
    """
    if not is_known(data):
        raise Refused(415, f"not an image of a known format; expected {KNOWN}")
    try:
        header = read_header(data)
    except TooLarge:
        raise Refused(413, f"too many pixels; {_accepted(max_pixels)}") from None
    except ImageError as error:
        raise Refused(422, f"damaged image file: {error}") from None
    pixels = header.width * header.height
    if pixels > max_pixels:
        refusal = f"{header.width} x {header.height} pixels; {_accepted(max_pixels)}"
        raise Refused(413, refusal)
    return pixels * (_JPEG_BYTES if header.jpeg else _OTHER_BYTES)


async def _read(request: Request, limit: int, options: ServeOptions, upload: Upload) -> bytearray:
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise _too_many_bytes(options)
            upload.grow(len(chunk))
            body += chunk
    except BaseException:
        body.clear()  # the traceback keeps it for a while
        raise
    return body


async def _file_of_form(request: Request, body: bytearray) -> bytes:
    """The one file of a form whose body has already arrived."""

    async def replay() -> AsyncGenerator[bytes, None]:
        yield bytes(body)
        yield b""

    parser = _InMemory(request.headers, replay(), max_files=1, max_fields=_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(422, f"multipart form: {error.message}; send one image file") from None
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    return await files[0].read() if files else b""


class _InMemory(MultiPartParser):
    """Starlette's parser without its temporary files: there may be no folder for them, and the
    body, whose size is limited, is in memory anyway."""

    spool_max_size = max_file_size = sys.maxsize  # its name before and after Starlette 0.40


def _content_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_many_bytes(options: ServeOptions) -> Refused:
    return Refused(413, f"too large: at most {options.max_bytes} bytes are accepted")


def _accepted(max_pixels: int) -> str:
    return f"at most {max_pixels / 1e6:g} million are accepted"
