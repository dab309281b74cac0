"""What an image file says of itself before anything is decoded: kind, size, and who reads it right.

The size bounds what decoding may take, so it is read from the bytes by the rules of the decoders:
of JPEG, PNG and TIFF here, of other formats by Pillow. Samples whose range is not fixed, which a
decoder would clip, are refused with the reason. Read next: image_file.py.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from PIL import Image

from ppcls_lite.errors import ImageError

JPEG, PNG, RIFF = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF"
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # mark -> byte order
_KINDS = {JPEG: "JPEG", PNG: "PNG", RIFF: "WebP", b"GIF8": "GIF", b"BM": "BMP"}
_KINDS |= dict.fromkeys(_TIFF, "TIFF")
KNOWN = ", ".join(dict.fromkeys(_KINDS.values()))  # in words
ADVICE = "copy the file again or remove it from the list"
_CONVERT = "save it with 8 bits per channel"
UNCLEAR = f"which do not say what is black and what is white; {_CONVERT}"

_JPEG_END = b"\xff\xd9"
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # JPEG markers that carry no length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry a JPEG's size
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_EXIF_BLOCK, _SCAN, _EXIF, _ORIENTATION = 0xE1, 0xDA, b"Exif\0", 0x0112
_MAX_SCANS = 100  # of a progressive JPEG, each a pass over all pixels; encoders write some ten
# Deflate packs a thousand bytes of zeros into one, and OpenCV unpacks what goes beyond the picture
# too: PNG files that could hide seconds of that go to Pillow, which stops at the last row.
_SMALL_PNG = 2**15  # bytes


class TooLarge(ImageError):
    """More pixels than Pillow looks at."""


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        width, height: in pixels, as stored; of a tiled TIFF at least a tile's.
        decoder: whose pixels are right; None: OpenCV's and Pillow's alike.
        depth: bits per sample of a PNG, else 0.
        jpeg: whether it is one.
    """

    width: int
    height: int
    decoder: Literal["cv2", "pil"] | None = None
    depth: int = 0
    jpeg: bool = False


def is_known(data: bytes) -> bool:
    """Whether a file begins like one of a known format."""
    return data.startswith(tuple(_KINDS))


def read_header(data: bytes) -> Header:
    """The header of an image file.

    Raises:
        ImageError: what is wrong, without the file's name: truncated, by the format's own end mark
            (some decoders return the half image), damaged, no image, or of a kind that does not fit
            into 8 bits.
    """
    try:
        if data.startswith(JPEG):
            return _jpeg(data)
        if data.startswith(PNG):
            return _png(data)
        if data[:4] in _TIFF:
            return _tiff(data)
        if data.startswith(RIFF):
            size = 8 + int.from_bytes(data[4:8], "little")
            if len(data) + 1 < size:  # writers may leave out the final padding byte
                raise ImageError(f"truncated WebP ({len(data)} of {size} bytes); {ADVICE}")
        return _other(data)
    except ImageError:
        raise
    except Exception as error:  # for damaged bytes Pillow's readers raise nearly anything
        raise undecodable(data) from error


def undecodable(data: bytes) -> ImageError:
    """The error for bytes of which no decoder makes an image."""
    for mark, kind in _KINDS.items():
        if data.startswith(mark):
            return ImageError(f"corrupt or truncated {kind}; {ADVICE}")
    return ImageError(
        f"not an image of a known format (it begins with {data[:8]!r}); expected {KNOWN}"
    )


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG as it is decoded, from its header; None for any other file."""
    if not data.startswith(JPEG):
        return None
    turned = False
    for marker, place in _jpeg_markers(data):
        if marker == _EXIF_BLOCK and data.startswith(_EXIF, place + 2):
            turned = _is_turned(data)
        if marker in _FRAMES and place + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, place + 3)
            if not (width and height):  # rare files give the height after the picture
                return None
            return (height, width) if turned else (width, height)
    return None


def _jpeg(data: bytes) -> Header:
    scan, frame, progressive = None, None, False
    for marker, place in _jpeg_markers(data):
        if marker == _SCAN:
            scan = place
        elif marker in _FRAMES and frame is None:
            frame, progressive = place, marker in _PROGRESSIVE
    # The last end mark must lie behind the first scan: a thumbnail in the header has its own.
    # Bytes after it (cameras append previews) are harmless.
    if scan is None or data.rfind(_JPEG_END) < scan:
        raise ImageError(f"truncated JPEG ({len(data)} bytes, no end mark); {ADVICE}")
    if frame is None:
        raise undecodable(data)
    precision, height, width = struct.unpack_from(">BHH", data, frame + 2)
    if precision != 8:
        raise ImageError(f"a JPEG of {precision}-bit samples; {_CONVERT}")
    if progressive and data.count(b"\xff\xda", scan) > _MAX_SCANS:
        raise ImageError(f"a progressive JPEG of more than {_MAX_SCANS} scans; save it again")
    return Header(width, height, jpeg=True)


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers up to the first scan, each with the position of its length.

    What lies between two segments is passed over, as libjpeg does it.
    """
    position = 2
    while (position := data.find(b"\xff", position)) >= 0:
        position += 1
        while data[position : position + 1] == b"\xff":
            position += 1
        marker = data[position : position + 1]
        if not marker or marker[0] in _BARE:
            continue
        yield marker[0], position + 1
        if marker[0] == _SCAN:
            return
        position += 1 + max(2, int.from_bytes(data[position + 1 : position + 3], "big"))


def _is_turned(data: bytes) -> bool:
    """Whether the EXIF orientation exchanges width and height."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(_ORIENTATION, 1)) in (5, 6, 7, 8)
    except Exception:  # of a damaged block; the decoder does not turn the image then either
        return False


def _png(data: bytes) -> Header:
    kinds = _png_chunks(data)
    if kinds[-1:] != [b"IEND"]:
        raise ImageError(f"truncated PNG ({len(data)} bytes, no IEND); {ADVICE}")
    if kinds[0] != b"IHDR":
        raise undecodable(data)
    width, height, depth, colours = struct.unpack_from(">IIBB", data, 16)
    keyed = b"tRNS" in kinds
    if keyed and depth == 16 and colours == 2:
        raise ImageError(
            "a PNG of 16-bit colour of which one is transparent, which no decoder here can tell "
            f"from its neighbours; {_CONVERT}"
        )
    by_pillow = keyed or colours in (4, 6) or len(data) > _SMALL_PNG  # 4 and 6 have alpha
    return Header(width, height, "pil" if by_pillow else None, depth)


def _png_chunks(data: bytes) -> list[bytes]:
    """The kinds of a PNG's chunks up to its end, or up to one that is not all there.

    OpenCV would take as much memory as a chunk says that it is long, up to 4 GB.
    """
    kinds, place = [], len(PNG)
    while place + 12 <= len(data) and kinds[-1:] != [b"IEND"]:
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if place > len(data):
            break
        kinds.append(kind)
    return kinds


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    width, height = tags[256][0], tags[257][0]
    bits, colours = max(tags.get(258, (1,))), tags.get(262, (1,))[0]
    kinds = set(tags.get(339, (1,)))  # of samples: 1 unsigned, 2 signed, 3 floating point
    if kinds - {1, 4} or bits not in (1, 2, 4, 8, 16):
        kind = {2: "signed", 3: "floating-point"}.get(max(kinds), "integer")
        raise ImageError(f"a TIFF of {bits}-bit {kind} samples, {UNCLEAR}")
    alpha = 338 in tags  # extra samples
    if bits == 16 and (colours == 5 or (alpha and colours in (0, 1))):
        what = "CMYK" if colours == 5 else "gray with transparency"
        raise ImageError(f"a TIFF of 16-bit {what}, which no decoder here reads right; {_CONVERT}")
    decoder = None
    if bits == 16 and not alpha and colours in (0, 1):
        decoder = "cv2"  # Pillow does not know all kinds of gray, and takes white for black
    elif alpha or colours in (8, 9):
        decoder = "pil"  # OpenCV drops transparency, and tints Lab
    tile = tags.get(322, (0,))[0], tags.get(323, (0,))[0]
    return Header(max(width, tile[0]), max(height, tile[1]), decoder)


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers among the tags of a TIFF's first image, at most four of each."""
    order, big = _TIFF[data[:4]], b"+" in data[2:4]
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    place = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, place)[0]
    place += 8 if big else 2
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(place, min(place + count * entry.size, len(data)), entry.size):
        tag, kind, number, value = entry.unpack_from(data, start)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is None or tag in tags or not number:
            continue
        form = f"{order}{min(number, 4)}{code}"
        if number * struct.calcsize(code) <= len(value):
            tags[tag] = struct.unpack_from(form, value)
        else:
            offset = int.from_bytes(value, "little" if order == "<" else "big")
            tags[tag] = struct.unpack_from(form, data, offset)
    if not {256, 257} <= tags.keys():
        raise undecodable(data)
    return tags


def _other(data: bytes) -> Header:
    try:
        opened = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{error}") from error
    with opened as image:
        if image.mode == "F":
            raise ImageError(f"{image.format} of floating-point samples, {UNCLEAR}")
        # OpenCV drops transparency, and GIF is new to it
        by_pillow = image.has_transparency_data or image.format == "GIF"
        return Header(*image.size, "pil" if by_pillow else None)
