"""Image files to RGB arrays: which kinds are accepted, and how each one is turned into 8-bit RGB.

Grayscale is repeated three times; palettes are expanded; 16-bit samples keep their high byte; CMYK
and YCCK JPEGs are converted by the decoder; transparency is composited on white (other than
`cv2.imdecode`, which drops it: the colour below is arbitrary, often black); the EXIF orientation is
applied; of an animation the first frame counts. A truncated file is an error, recognised by the
format's own end mark: some decoders return the half image. Read next: decode.py.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ppcls_lite.errors import ImageError, UserError

JPEG, PNG, RIFF = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF"
_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_LARGE = 1 << 20  # bytes; zlib makes at most 1032 times as many of them
_SCAN = 0xDA
_JPEG_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))  # these carry no length
_NO_ALPHA = (JPEG, b"BM")  # formats without transparency, the common case first
_READ = {  # divisor of the size -> how OpenCV reads; with RGB, "grayscale" only gives the size
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry a JPEG's size
_EXIF, _ORIENTATION = b"Exif\0", 0x0112
_ADVICE = "copy the file again or remove it from the list"


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; ImageError where it is missing, unreadable or empty."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(f"{path}: the file is empty; {_ADVICE}")
    return data


def decode_rgb(data: bytes, name: str, backend: str = "cv2", reduced: int = 1) -> np.ndarray:
    """Decode an image file's bytes into an (H, W, 3) uint8 RGB array.

    `name` is what an ImageError calls it where it is truncated, corrupt, too large or no image;
    `backend` is "cv2" or "pil". `reduced` 2, 4 or 8 divides the size of a JPEG (rounded up), with
    "cv2" only.
    """
    _check_complete(data, name)
    if backend == "pil" or _needs_pillow(data):
        return _decode_pil(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _READ[reduced])
    except cv2.error as error:  # for example more pixels than OpenCV allows
        raise ImageError(f"{name}: cannot be decoded: {error.err or error}") from error
    if image is None or image.dtype != np.uint8:
        raise _undecodable(data, name)
    return image  # (H, W, 3)


def array_to_rgb(image: np.ndarray, name: str = "image") -> np.ndarray:
    """An (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA array as (H, W, 3) uint8 RGB.

    uint16 keeps its high byte. An RGB uint8 array is returned as it is, not copied. UserError for
    another shape or type.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise UserError(
            f"{name}: got an array of shape {image.shape} and type {image.dtype}; expected "
            "(H, W), (H, W, 3) RGB or (H, W, 4) RGBA of type uint8 or uint16"
        )
    if 0 in image.shape:
        raise UserError(f"{name}: got an array without pixels, shape {image.shape}")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)  # (H, W, 3)
    if image.shape[2] == 4:
        return np.asarray(_on_white(Image.fromarray(np.ascontiguousarray(image))))  # (H, W, 3)
    return image


def _check_complete(data: bytes, name: str) -> None:
    if data.startswith(JPEG):
        # The last end mark must lie behind the first scan: a thumbnail in the header has its own.
        # Bytes after it (cameras append previews) are harmless.
        scan = next((place for place, marker in _segments(data) if marker == _SCAN), None)
        if scan is None or data.rfind(_JPEG_END) < scan:
            raise ImageError(f"{name}: truncated JPEG ({len(data)} bytes, no end mark); {_ADVICE}")
    elif data.startswith(PNG):
        if data.rfind(_PNG_END) < 0:
            raise ImageError(f"{name}: truncated PNG ({len(data)} bytes, no IEND); {_ADVICE}")
    elif data.startswith(RIFF):
        size = 8 + int.from_bytes(data[4:8], "little")
        if len(data) + 1 < size:  # writers may leave out the final padding byte
            raise ImageError(f"{name}: truncated WebP ({len(data)} of {size} bytes); {_ADVICE}")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Position and marker of a JPEG's segments up to its first scan, or to what is no segment."""
    position, marker = 2, 0
    while position + 3 < len(data) and marker != _SCAN:
        marker = data[position + 1] if data[position] == 0xFF else _SCAN
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_BARE_MARKERS:
            position += 2
        else:
            yield position, marker
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG as it is decoded, from its header; None for any other file."""
    turned = False
    for position, marker in _segments(data) if data.startswith(JPEG) else ():
        if marker == 0xE1 and data.startswith(_EXIF, position + 4):
            turned = _is_turned(data)
        if marker in _FRAMES:
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            if not (width and height):  # rare files give the height after the picture
                return None
            return (height, width) if turned else (width, height)
    return None


def _is_turned(data: bytes) -> bool:
    """Whether the EXIF orientation exchanges width and height."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(_ORIENTATION, 1)) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return False


def _needs_pillow(data: bytes) -> bool:
    """Whether the image, by its header, may be transparent, is a GIF (new to OpenCV), or a PNG so
    large that it could hold gigabytes behind its last row: OpenCV would inflate them all."""
    if data.startswith(_NO_ALPHA):
        return False
    if data.startswith(b"GIF8"):
        return True
    if data.startswith(PNG):  # colour types 4 and 6 have alpha; a tRNS chunk precedes the data
        if len(data) > _PNG_LARGE:
            return True
        return data[25] in (4, 6) or b"tRNS" in data[33 : data.find(b"IDAT", 33)]
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.has_transparency_data
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # a format that only OpenCV knows, or none


def _decode_pil(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = _on_white(image.convert("RGBA"))
            elif image.mode.startswith("I"):  # 16-bit gray: Pillow would clip it at 255
                return array_to_rgb(np.asarray(image).astype(np.uint16), name)
            return np.asarray(image.convert("RGB"))  # (H, W, 3)
    except Image.UnidentifiedImageError:
        raise _undecodable(data, name) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: cannot be decoded: {error}; {_ADVICE}") from error


def _on_white(image: Image.Image) -> Image.Image:
    """An RGBA image laid over white, as RGB."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _undecodable(data: bytes, name: str) -> ImageError:
    known = {JPEG: "JPEG", PNG: "PNG", RIFF: "WebP", b"GIF8": "GIF", b"BM": "BMP"}
    for mark, kind in {**known, b"II*\0": "TIFF", b"MM\0*": "TIFF"}.items():
        if data.startswith(mark):
            return ImageError(f"{name}: corrupt or truncated {kind}; {_ADVICE}")
    return ImageError(
        f"{name}: not an image of a known format (it begins with {data[:8]!r}); "
        "expected JPEG, PNG, WebP, BMP, GIF or TIFF"
    )
