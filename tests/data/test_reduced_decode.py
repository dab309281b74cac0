"""DecodeImage with `reduced`: the same parts of an image, decoded at a fraction of its size."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.crop import CropImage, RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.data.transforms.image_header import jpeg_size
from ppcls_lite.errors import ImageError, UserError


def photo(height=400, width=600, seed=0):
    """Smooth coloured shapes, (H, W, 3): what can be compared at another scale."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 50, width // 50, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def cropped(data, size, seed, reduced, **options):
    chain = Compose([DecodeImage(reduced=reduced), RandCropImage(size, **options)], to_chw=False)
    return chain({"image": data}, np.random.default_rng(seed))["image"].astype(int)


@pytest.fixture
def factors(monkeypatch):
    """The divisors by which images are decoded, in their order."""
    module, seen = "ppcls_lite.data.transforms.decode", []

    def spy(data, name, backend, reduced, max_pixels):
        seen.append(reduced)
        return decode_rgb(data, name, backend, reduced, max_pixels)

    monkeypatch.setattr(f"{module}.decode_rgb", spy)
    return seen


@pytest.mark.parametrize("size", [32, 64, [80, 40]])
def test_the_same_part_with_nearly_the_same_pixels(size, factors):
    data = jpeg(photo())
    for seed in range(12):
        full = cropped(data, size, seed, reduced=False)
        factors.clear()
        found = cropped(data, size, seed, reduced=True)
        assert found.shape == full.shape
        assert np.abs(found - full).mean() < (8 if factors[-1] > 1 else 1e-9)


def test_only_where_the_part_stays_large_enough(factors):
    data = jpeg(photo())  # 600 x 400
    for edge, factor in (
        (400, 1),
        (224, 1),
        (200, 2),
        (101, 2),
        (100, 4),
        (51, 4),
        (50, 8),
        (8, 8),
    ):
        cropped(data, edge, 0, reduced=True, scale=[1.0, 1.0], ratio=[1.5, 1.5])
        assert factors.pop() == factor, edge
    for size, factor in (((32, 32), 8), ((300, 300), 1)):  # a multi-scale batch's own
        whole = [RandCropImage(224, scale=[1.0, 1.0], ratio=[1.5, 1.5])]
        chain = Compose([DecodeImage(reduced=True), *whole], to_chw=False)
        sample = chain({"image": data, "size": size}, np.random.default_rng(0))
        assert sample["image"].shape[:2] == size and factors.pop() == factor


def test_unreduced_parts_are_the_same_bit_by_bit(factors):
    for data in (jpeg(photo(120, 160)), cv2.imencode(".png", photo(800, 800))[1].tobytes()):
        for seed in range(5):
            full = cropped(data, 112, seed, reduced=False, interpolation="random")
            found = cropped(data, 112, seed, reduced=True, interpolation="random")
            np.testing.assert_array_equal(found, full)
    assert set(factors) == {1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_keep_their_orientation(orientation):
    data = jpeg(photo(), exif=exif(orientation))
    assert jpeg_size(data) == decode_rgb(data, "x").shape[1::-1]
    full, found = (cropped(data, 40, 3, reduced=r) for r in (False, True))
    assert np.abs(found - full).mean() < 8


def test_sizes_from_headers():
    for options in ({"progressive": True}, {"optimize": True}, {"subsampling": 2}):
        assert jpeg_size(jpeg(photo(), **options)) == (600, 400)
    assert jpeg_size(jpeg(photo()[..., 0])) == (600, 400)
    cmyk = io.BytesIO()
    Image.fromarray(photo()).convert("CMYK").save(cmyk, "jpeg")
    assert jpeg_size(cmyk.getvalue()) == (600, 400)
    assert decode_rgb(cmyk.getvalue(), "x", reduced=4).shape == (100, 150, 3)
    assert jpeg_size(cv2.imencode(".png", photo())[1].tobytes()) is None
    for length in (0, 2, 3, 20, 150):
        assert jpeg_size(jpeg(photo())[:length]) is None


def test_broken_files_are_found_as_ever():
    for data in (jpeg(photo())[:-2000], b"\xff\xd8\xff", b"nothing"):
        with pytest.raises(ImageError):
            cropped(data, 32, 0, reduced=True)


def test_boxes_and_masks_see_the_whole_image(factors):
    sample = {"image": jpeg(photo()), "mask": np.zeros((400, 600), np.uint8)}
    chain = Compose([DecodeImage(reduced=True), RandCropImage(16)], to_chw=False)
    assert chain(sample, np.random.default_rng(0))["mask"].shape == (16, 16)
    assert factors == [1]


def test_what_cannot_be_reduced_is_a_mistake():
    for options in ({"backend": "pil"}, {"channel_first": True}):
        with pytest.raises(UserError, match="reduced needs backend: cv2"):
            DecodeImage(reduced=True, **options)
    with pytest.raises(UserError, match="found CropImage"):
        Compose([DecodeImage(reduced=True), CropImage(32)])
    with pytest.raises(UserError, match="found NoneType"):
        Compose([DecodeImage(reduced=True)])


def test_real_photographs(real_data):
    folder = real_data / "imagenet_samples"
    paths = list(read_image_list(str(folder / "val_list.txt"), str(folder)).paths)
    shifts = []
    for seed, path in enumerate(paths[:40]):
        data = read_file(path)
        assert jpeg_size(data) == decode_rgb(data, path).shape[1::-1]
        full, found = (
            cropped(data, 64, seed, reduced=r, interpolation="area") for r in (False, True)
        )
        assert np.abs(found - full).mean() < 16, path
        shifts.append((found - full).mean())
    assert abs(np.mean(shifts)) < 0.5  # neither darker nor brighter
