"""What the numbers of a mask file are, whatever kind of image it is."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.mask_file import MaskFile, Palette, decode_mask, read_palette
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.ops.palettes import voc_colours

NUMBERS = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def narrow_gray(numbers: np.ndarray, depth: int) -> bytes:
    """A PNG of gray samples of `depth` bits, which Pillow does not write."""
    rows = b""
    for row in numbers:
        bits = "".join(f"{n:0{depth}b}" for n in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width = numbers.shape
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def palette_png(numbers: np.ndarray = NUMBERS) -> bytes:
    image = Image.fromarray(numbers).convert("L")
    image.putpalette(voc_colours(256).ravel().tolist())
    return encoded(image)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(NUMBERS)),
        palette_png(),
        encoded(Image.fromarray(NUMBERS[..., None].repeat(3, axis=2))),
        encoded(Image.fromarray(NUMBERS[..., None].repeat(4, axis=2))),
        encoded(Image.fromarray(NUMBERS.astype(np.uint16))),
        encoded(Image.fromarray(NUMBERS), "BMP"),
        encoded(Image.fromarray(NUMBERS), "TIFF"),
        narrow_gray(NUMBERS, 2),
        narrow_gray(NUMBERS, 4),
    ],
    ids=["gray", "palette", "rgb", "rgba", "16 bits", "bmp", "tiff", "2 bits", "4 bits"],
)
def test_every_kind_of_indices_gives_the_same_numbers(data: bytes) -> None:
    found = decode_mask(data, "x")
    np.testing.assert_array_equal(found.numbers, NUMBERS)
    assert found.numbers.dtype == np.uint8 and found.colours is None and not found.lossy


def test_one_bit_is_0_and_1() -> None:
    found = decode_mask(encoded(Image.fromarray(NUMBERS > 0)), "x")
    np.testing.assert_array_equal(found.numbers, NUMBERS > 0)


def test_colours_are_no_numbers() -> None:
    colours = voc_colours(4)[NUMBERS]
    found = decode_mask(encoded(Image.fromarray(colours)), "x")
    assert found.numbers is None
    np.testing.assert_array_equal(found.colours, colours)
    assert decode_mask(encoded(Image.fromarray(NUMBERS), "JPEG"), "x").lossy


def test_what_is_no_mask_says_so() -> None:
    wide = encoded(Image.fromarray(NUMBERS.astype(np.uint16) * 200))
    with pytest.raises(ImageError, match=r"^a.png: expected a PNG of 8-bit .* values up to 600"):
        decode_mask(wide, "a.png")
    with pytest.raises(ImageError, match=r"^a.png: "):
        decode_mask(b"no image", "a.png")
    with pytest.raises(ImageError, match=r"^a.png: truncated PNG"):
        decode_mask(palette_png()[:-8], "a.png")


def test_the_known_colours_of_voc() -> None:
    known = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert voc_colours(5).tolist() == known
    assert voc_colours(256)[[20, 255]].tolist() == [[0, 64, 128], [224, 224, 192]]
    assert len(np.unique(voc_colours(256), axis=0)) == 256


def test_a_palette_finds_the_numbers_of_colours() -> None:
    palette = Palette(voc_colours(4))
    colours = voc_colours(4)[NUMBERS]
    np.testing.assert_array_equal(palette.indices(colours, "x"), NUMBERS)
    shown = decode_mask(palette_png(), "x").in_colours()
    np.testing.assert_array_equal(shown, colours)
    gray = MaskFile(np.array([[0, 9]], np.uint8)).in_colours()
    assert gray.tolist() == [[[0, 0, 0], [9, 9, 9]]]
    colours[0, 1:] = 7, 8, 9
    with pytest.raises(ImageError, match=r"^a.png: 2 pixels of 1 colours .* \[7, 8, 9\]"):
        palette.indices(colours, "a.png")


def test_a_palette_is_read_from_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "colours.txt"
    path.write_text("0 0 0 nothing\n128 64 128\troad\x85surface\n\n0 0 142\n", encoding="utf-8")
    palette = read_palette(str(path))
    assert palette.names == ["nothing", "road\x85surface", "2"]
    assert palette.colours.tolist() == [[0, 0, 0], [128, 64, 128], [0, 0, 142]]
    for text, problem in {
        "0 0 0\n0 0 300 sky": ":2: expected `r g b name`",
        "0 0 0\n0 0 0": "2 colours, 1 of them different",
        "\n": "0 colours",
    }.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=problem):
            read_palette(str(path))
    with pytest.raises(UserError, match="there is no file"):
        read_palette(str(tmp_path / "none.txt"))
