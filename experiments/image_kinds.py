"""A gradient of 16 x 16 pixels in every kind of image file, with the pixels that it stands for.

Written byte by byte where no library writes the kind: PNG of every depth, colour type and
transparency, TIFF of both byte orders and every kind of sample, BMP with and without alpha.
Read next: image_fuzz.py.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

GRAY = np.arange(256).reshape(16, 16)
RGB = np.stack([GRAY, GRAY[::-1], GRAY.T], axis=2)  # (16, 16, 3)
ALPHA = GRAY[:, ::-1]
_NOISE = GRAY * 97 % 256  # the low byte of 16-bit samples, which must not matter
_KEY = (3, 5)  # whose colour the files with a transparent colour make transparent


class Kind(NamedTuple):
    """A file, and (16, 16, 3) float64 that it should decode to; None: no pixels are right."""

    name: str
    data: bytes
    expected: np.ndarray | None


def all_kinds() -> list[Kind]:
    """Every kind; the lossless ones are exact but for the rounding of transparency."""
    return [*_pngs(), *_tiffs("<"), *_tiffs(">"), *_bmps(), *_others()]


def png(samples: np.ndarray, depth: int, colours: int, chunks: bytes = b"") -> bytes:
    """A PNG of samples (H, W, C); `chunks` stand between its header and its pixels."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    if depth < 8:
        bits = (samples[..., 0, None] >> np.arange(depth)[::-1]) & 1  # (H, W, depth)
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = samples.reshape(height, -1).astype(">u2" if depth == 16 else "u1")
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (chunk(b"IHDR", header), chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its length and check sum."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def tiff(samples: np.ndarray, order: str, tags: dict[int, list[int]]) -> bytes:
    """An uncompressed TIFF of samples (H, W, C) in the byte `order`; `tags` beside the usual."""
    data, (height, width, channels) = samples.tobytes(), samples.shape
    usual = {256: [width], 257: [height], 258: [samples.dtype.itemsize * 8] * channels}
    usual |= {259: [1], 262: [2 if channels >= 3 else 1], 273: [0], 277: [channels], 278: [height]}
    tags = dict(sorted((usual | {279: [len(data)]} | tags).items()))
    start = 8 + 2 + 12 * len(tags) + 4
    start += sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [start]
    entries, values_at, outside = b"", 8 + 2 + 12 * len(tags) + 4, b""
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, outside = struct.pack(order + "I", values_at + len(outside)), outside + packed
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(order + "IH", 8, len(tags))
    return mark + count + entries + bytes(4) + outside + data


def _encoded(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _gray(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2).astype(float)


def _on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def _samples(levels: np.ndarray, depth: int) -> np.ndarray:
    """Levels of 8 bits as samples of another depth."""
    if depth == 16:
        return levels * 256 + (_NOISE if levels.ndim == 2 else _NOISE[..., None])
    return levels >> (8 - depth)


def _levels(samples: np.ndarray, depth: int) -> np.ndarray:
    return samples >> 8 if depth == 16 else samples * 255 // ((1 << depth) - 1)


def _pngs() -> Iterator[Kind]:
    for depth in (1, 2, 4, 8, 16):
        gray = _samples(GRAY, depth)
        expected = _gray(_levels(gray, depth))
        yield Kind(f"PNG gray {depth}", png(gray[..., None], depth, 0), expected)
        for key in {0, int(gray[_KEY]), int(gray[-1, -1])}:
            data = png(gray[..., None], depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
            keyed = np.where((gray == key)[..., None], 255, expected)
            yield Kind(f"PNG gray {depth}, {key} transparent", data, keyed)
    for depth in (8, 16):
        rgb, alpha = _samples(RGB, depth), _samples(ALPHA, depth)
        levels, veil = _levels(rgb, depth), _levels(alpha, depth)
        yield Kind(f"PNG RGB {depth}", png(rgb, depth, 2), levels.astype(float))
        key = rgb[_KEY]
        keyed = np.where((rgb == key).all(axis=2)[..., None], 255.0, levels)
        data = png(rgb, depth, 2, chunk(b"tRNS", struct.pack(">HHH", *key.tolist())))
        yield Kind(f"PNG RGB {depth}, one transparent", data, keyed if depth == 8 else None)
        yield Kind(
            f"PNG RGBA {depth}", png(np.dstack([rgb, alpha]), depth, 6), _on_white(levels, veil)
        )
        gray = _samples(GRAY, depth)
        data = png(np.dstack([gray, alpha]), depth, 4)
        yield Kind(f"PNG gray-alpha {depth}", data, _on_white(_gray(_levels(gray, depth)), veil))
    for depth in (1, 2, 4, 8):
        many = 1 << depth
        steps = np.arange(many) * 255 // (many - 1)
        palette = np.stack([steps, 255 - steps, np.arange(many) * 7 % 256], axis=1)
        index = _samples(GRAY, depth)
        colours = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        expected = palette[index].astype(float)
        yield Kind(f"PNG palette {depth}", png(index[..., None], depth, 3, colours), expected)
        veil = chunk(b"tRNS", steps.astype(np.uint8).tobytes())
        data = png(index[..., None], depth, 3, colours + veil)
        yield Kind(f"PNG palette {depth} with alpha", data, _on_white(expected, steps[index]))


def _tiffs(order: str) -> Iterator[Kind]:
    pictures = {1: GRAY[..., None], 3: RGB, 4: np.dstack([RGB, ALPHA])}
    for form, sample_format in (("u", 1), ("i", 2), ("f", 3)):
        for size in (1, 2, 4, 8):
            if form + str(size) == "f1":
                continue
            for channels, picture in pictures.items():
                samples = picture * 1.0 if form == "f" else picture << 8 * (size - 1)
                samples = samples.astype(f"{order}{form}{size}")
                extra = {338: [2]} if channels == 4 else {}
                name = f"TIFF {order} {form}{8 * size} x{channels}"
                expected = None
                if form == "u" and size <= 2:
                    rgb = _gray(GRAY) if channels == 1 else RGB.astype(float)
                    expected = _on_white(rgb, ALPHA) if channels == 4 else rgb
                data = tiff(samples, order, extra | {339: [sample_format] * channels})
                yield Kind(name, data, expected)
    white_is_zero = {8: 255 - GRAY, 16: (255 - GRAY) << 8}
    for depth, gray in white_is_zero.items():
        samples = gray[..., None].astype(f"{order}u{depth // 8}")
        yield Kind(
            f"TIFF {order} white is zero {depth}", tiff(samples, order, {262: [0]}), _gray(GRAY)
        )
        both = np.dstack([GRAY, ALPHA]) << (depth - 8)
        data = tiff(both.astype(samples.dtype), order, {338: [2]})
        expected = _on_white(_gray(GRAY), ALPHA) if depth == 8 else None
        yield Kind(f"TIFF {order} gray-alpha {depth}", data, expected)
        inks = np.dstack([255 - RGB, 0 * GRAY]) << (depth - 8)
        data = tiff(inks.astype(samples.dtype), order, {262: [5]})
        yield Kind(f"TIFF {order} CMYK {depth}", data, RGB * 1.0 if depth == 8 else None)
    palette = np.stack([GRAY.ravel(), 255 - GRAY.ravel(), GRAY.ravel() * 7 % 256], axis=1)
    tags = {262: [3], 320: (palette.T.ravel() * 257).tolist()}
    index = GRAY[..., None].astype("u1")
    yield Kind(f"TIFF {order} palette", tiff(index, order, tags), palette[GRAY].astype(float))
    lightness = np.dstack([GRAY, 0 * GRAY, 0 * GRAY]).astype("u1")
    yield Kind(f"TIFF {order} Lab", tiff(lightness, order, {262: [8]}), _gray(_srgb(GRAY / 255)))


def _srgb(lightness: np.ndarray) -> np.ndarray:
    """CIE lightness (0 to 1) of gray as a level of sRGB."""
    root = (lightness * 100 + 16) / 116
    linear = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 3 * (6 / 29) ** 2)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def _bmps() -> Iterator[Kind]:
    for name, alpha in (("BMP 32 unused", None), ("BMP 32 with alpha", ALPHA)):
        fourth = 0 * GRAY if alpha is None else alpha
        pixels = np.dstack([RGB[..., ::-1], fourth])[::-1].astype(np.uint8).tobytes()
        size, packing = (40, 0) if alpha is None else (108, 3)
        header = struct.pack("<IiiHHIIiiII", size, 16, 16, 1, 32, packing, len(pixels), 0, 0, 0, 0)
        if alpha is not None:
            header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
        start = 14 + len(header)
        data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels
        yield Kind(name, data, RGB * 1.0 if alpha is None else _on_white(RGB, ALPHA))
    yield Kind("BMP gray", _encoded(GRAY, "BMP"), _gray(GRAY))
    yield Kind("BMP RGB", _encoded(RGB, "BMP"), RGB.astype(float))


def _others() -> Iterator[Kind]:
    rgba = np.dstack([RGB, ALPHA])
    yield Kind("GIF", _encoded(GRAY, "GIF"), _gray(GRAY))
    yield Kind("WebP", _encoded(RGB, "WEBP", lossless=True), RGB.astype(float))
    data = _encoded(rgba, "WEBP", lossless=True, exact=True)
    yield Kind("WebP with alpha", data, _on_white(RGB, ALPHA))
    slow = Image.fromarray(GRAY.astype(np.uint8)).convert("RGB")
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            data = _encoded(
                slow.convert(mode), "JPEG", quality=100, subsampling=0, progressive=progressive
            )
            yield Kind(f"JPEG {mode}{' progressive' * progressive}", data, _gray(GRAY))
