"""Masks of stored pixels turn as the decoder turns their image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.transforms.exif import read_orientation
from ppcls_lite.data.transforms.image_file import decode_rgb


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_it_is_what_the_decoder_does(kind: str, value: int, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"lossless": True} if kind == "WEBP" else {}
    data = io.BytesIO()
    Image.fromarray(gray[..., None].repeat(3, axis=2)).save(data, kind, exif=exif, **options)
    path = tmp_path / "image"
    path.write_bytes(data.getvalue())
    found = read_orientation(str(path))
    assert (found.value, found.width, found.height) == (value, 7, 5)
    decoded = decode_rgb(data.getvalue(), "x")[..., 0]
    assert found.upright == decoded.shape[::-1]
    np.testing.assert_array_equal(found.turn_mask(gray), decoded)


def test_a_file_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    assert read_orientation(str(tmp_path / "missing.jpg")) is None
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    assert read_orientation(str(tmp_path / "broken.jpg")) is None
