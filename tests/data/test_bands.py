"""TIFF files of many bands."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 65_535, (10, 12, 6), np.uint16)


def tiff(pixels: np.ndarray, separate: bool, **more: object) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    pixels = pixels.transpose(2, 0, 1) if separate else pixels
    order = "separate" if separate else "contig"
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig=order, **more)
    return file.getvalue()


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("more", [{}, {"compression": "zlib"}, {"bigtiff": True}])
def test_bands_are_read(separate: bool, kind: type, more: dict[str, object], tmp_path) -> None:
    pixels = PIXELS if kind is np.uint16 else (PIXELS >> 8).astype(np.uint8)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pixels, separate, **more))
    found = DecodeImage(channels=6).read(str(path))
    np.testing.assert_array_equal(found, (PIXELS >> 8).astype(np.uint8))


def test_what_is_no_such_picture_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    whole = tiff((PIXELS >> 8).astype(np.uint8), False)
    path.write_bytes(whole)
    with pytest.raises(ImageError, match=r"expected \(H, W, 5\)"):
        DecodeImage(channels=5).read(str(path))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError):
        DecodeImage(channels=6).read(str(path))
    path.write_bytes(whole)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match="read by tifffile, which is not installed"):
        DecodeImage(channels=6).read(str(path))
