"""What decoding a file may take is bounded by its header; it raises nothing but ImageErrors."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from experiments.image_kinds import chunk, png, tiff
from ppcls_lite.data.cache import decoded_size
from ppcls_lite.data.transforms import DecodeImage
from ppcls_lite.data.transforms.image_file import MAX_PIXELS, decode_rgb, read_file
from ppcls_lite.data.transforms.image_header import read_header
from ppcls_lite.errors import ImageError

BACKENDS = ("cv2", "pil")
both = pytest.mark.parametrize("backend", BACKENDS)


def encoded(kind: str, size: tuple[int, int] = (30, 20), **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def announcing(kind: str, width: int, height: int) -> bytes:
    """A file whose header says that size, with the pixels of a small image."""
    data = bytearray(encoded(kind))
    if kind == "PNG":
        header = struct.pack(">II", width, height) + data[24:29]
        return bytes(data[:8]) + chunk(b"IHDR", bytes(header)) + bytes(data[33:])
    if kind == "JPEG":
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        samples = np.zeros((20, 30, 3), np.uint8)
        return tiff(samples, "<", {256: [width], 257: [height]})
    return bytes(data)


@both
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_a_header_of_too_many_pixels_is_refused_before_decoding(
    kind: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decodes(*args: object) -> None:
        raise AssertionError("decoded")

    data = announcing(kind, 10_001, 10_000)
    monkeypatch.setattr(cv2, "imdecode", decodes)
    monkeypatch.setattr(Image.Image, "load", decodes)
    with pytest.raises(ImageError, match=r"^big: 10001 x 10000 pixels; .* 100 million .*max_mega"):
        decode_rgb(data, "big", backend)
    assert read_header(data)[:2] == (10_001, 10_000)


@both
def test_the_limit_is_an_option(backend: str) -> None:
    data = encoded("PNG", (30, 20))
    exact = DecodeImage(backend=backend, max_megapixels=0.0006)
    assert exact({"image": data})["image"].shape == (20, 30, 3)
    below = DecodeImage(backend=backend, max_megapixels=0.000599)
    with pytest.raises(ImageError, match=r"^a\.png: 30 x 20 pixels; expected at most 0.000599 mil"):
        below({"image": data, "path": "a.png"})
    assert DecodeImage().max_megapixels * 1e6 == MAX_PIXELS


def test_a_tile_larger_than_its_tiff_counts() -> None:
    data = tiff(np.zeros((4, 4, 1), np.uint8), "<", {322: [60_000], 323: [60_000]})
    with pytest.raises(ImageError, match="60000 x 60000 pixels"):
        decode_rgb(data, "x")


def test_big_tiff_headers_are_read() -> None:
    data = encoded("TIFF", big_tiff=True)
    assert data[2] == 43 and read_header(data)[:2] == (30, 20)
    with pytest.raises(ImageError, match="30 x 20 pixels"):
        decode_rgb(data, "x", max_pixels=599)


@both
def test_a_chunk_longer_than_its_png_is_not_waited_for(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)  # it would take 2 GB
    data = encoded("PNG")
    endless = data[:33] + struct.pack(">I", 2**31 - 1) + data[37:]
    with pytest.raises(ImageError, match=r"^x: truncated PNG \("):
        decode_rgb(endless, "x", backend)


def overfull(width: int, height: int, megabytes: int) -> bytes:
    """A PNG whose compressed data goes on after the last row, with zeros."""
    packer = zlib.compressobj(9)
    rows = bytes([0, *[200] * (3 * width)]) * height
    begin = packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = zlib.compressobj(9, wbits=-15)
    block = zeros.compress(bytes(2**20)) + zeros.flush(zlib.Z_FULL_FLUSH)
    small = png(np.full((height, width, 3), 200), 8, 2)
    header = small[: small.index(b"IDAT") - 4]
    return header + chunk(b"IDAT", begin + block * megabytes) + chunk(b"IEND", b"")


@both
def test_inflating_stops_at_the_last_row(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = overfull(32, 32, 64)  # of 64 kB, 64 MB when inflated
    assert read_header(data).decoder == "pil"
    monkeypatch.setattr(cv2, "imdecode", None)  # it would inflate all
    assert (decode_rgb(data, "x", backend) == 200).all()


@both
def test_large_and_small_png_files_have_the_same_pixels(backend: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (120, 150, 3), np.uint8)
    data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    assert read_header(data).decoder == "pil"
    np.testing.assert_array_equal(decode_rgb(data, "x", backend), pixels)


def test_a_progressive_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded("JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scan = data[last:end]
    assert decode_rgb(data, "x").shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"^x: a progressive JPEG of more than 100 scans"):
        decode_rgb(data[:end] + scan * 100 + data[end:], "x")


def test_a_jpeg_of_12_bits_is_called_so() -> None:
    data = bytearray(encoded("JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match=r"^x: a JPEG of 12-bit samples; save it with 8 bits"):
        decode_rgb(bytes(data), "x")


def test_segments_are_found_where_libjpeg_finds_them() -> None:
    data = encoded("JPEG", (40, 24))
    odd = data[:2] + b"garbage\xff\x00\xff\xff" + data[3:]
    assert read_header(odd)[:2] == read_header(data)[:2] == (40, 24)


@both
def test_stubs_of_every_length(backend: str) -> None:
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        data = encoded(kind)
        for length in range(1, 64):
            for tail in (b"", b"IEND\xaeB`\x82", b"\xff\xd9"):
                with pytest.raises(ImageError, match=r"^a\.img: "):
                    decode_rgb(data[:length] + tail, "a.img", backend)


@both
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory"),
        (cv2.error("shrug"), "shrug"),
        (IndexError("list"), "list"),
        (struct.error("unpack"), "unpack"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_decoder_raises(
    error: Exception, reason: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise error

    data = encoded("BMP")
    monkeypatch.setattr(cv2, "imdecode", fails)
    monkeypatch.setattr(Image.Image, "convert", fails)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(ImageError, match=rf"^a\.bmp: .*{reason}"):
        decode_rgb(data, "a.bmp", backend)


def test_transparency_is_laid_on_white_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (37, 20, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    whole = decode_rgb(buffer.getvalue(), "x")
    monkeypatch.setattr("ppcls_lite.data.transforms.image_file._STRIP", 100)  # five rows
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue(), "x"), whole)


@pytest.mark.parametrize("name", ["a" * 300 + ".jpg", "a\0b.jpg", "x/" * 3000 + "a.jpg"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot be read: .*(too long|null)"):
        read_file(f"{tmp_path}/{name}")


def test_the_cache_asks_no_damaged_header(tmp_path: Path) -> None:
    for kind in ("PNG", "TIFF", "BMP", "GIF", "JPEG"):
        data = encoded(kind)
        for place in range(0, 60):
            path = tmp_path / "a.img"
            path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
            assert decoded_size(str(path)) >= 0
