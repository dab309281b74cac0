"""Decoding: every kind of image on purpose, every kind of broken file as an error that says so."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.transforms import DecodeImage
from ppcls_lite.data.transforms.image_file import array_to_rgb, decode_rgb
from ppcls_lite.data.transforms.normalize import ToGray
from ppcls_lite.errors import ImageError, UserError

BACKENDS = ("cv2", "pil")


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth RGB image whose four corners and three channels all differ."""
    y, x = np.mgrid[:height, :width]
    red, green, blue = x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 100 // height
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: np.ndarray | Image.Image, **options) -> bytes:
    return encode(image, "JPEG", **{"quality": 98, "subsampling": 0} | options)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_rgb_is_exact(kind: str, backend: str) -> None:
    decoded = decode_rgb(encode(picture(), kind), "x", backend)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture())


@pytest.mark.parametrize("backend", BACKENDS)
def test_jpeg_and_webp_come_as_rgb(backend: str) -> None:
    assert difference(decode_rgb(jpeg(picture()), "x", backend), picture()) <= 6
    webp = encode(picture(), "WEBP", lossless=True)
    assert difference(decode_rgb(webp, "x", backend), picture()) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grayscale_is_repeated_three_times(kind: str, backend: str) -> None:
    gray = picture()[..., 0]
    decoded = decode_rgb(encode(gray, kind), "x", backend)
    assert decoded.shape == (40, 60, 3)
    assert difference(decoded[..., 0], decoded[..., 1]) == 0
    assert difference(decoded[..., 0], decoded[..., 2]) == 0
    assert difference(decoded[..., 0], gray) <= 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_bit_images_become_black_and_white(backend: str) -> None:
    bits = Image.fromarray((picture()[..., 0] > 127).astype(np.uint8) * 255).convert("1")
    decoded = decode_rgb(encode(bits, "PNG"), "x", backend)
    np.testing.assert_array_equal(decoded, np.asarray(bits.convert("RGB")))
    assert set(np.unique(decoded)) == {0, 255}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_16_bit_keeps_the_high_byte(shape: tuple[int, ...], backend: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    stored = deep if deep.ndim == 2 else deep[..., ::-1]  # OpenCV writes BGR
    data = cv2.imencode(".png", stored)[1].tobytes()
    expected = (deep >> 8).astype(np.uint8)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(data, "x", backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cmyk_jpeg_has_the_right_colours(backend: str) -> None:
    decoded = decode_rgb(jpeg(Image.fromarray(picture()).convert("CMYK")), "x", backend)
    assert difference(decoded, picture()) <= 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_palette_is_expanded(backend: str) -> None:
    palette = Image.fromarray(picture()).quantize(32)
    decoded = decode_rgb(encode(palette, "PNG"), "x", backend)
    np.testing.assert_array_equal(decoded, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(kind: str, backend: str) -> None:
    rgba = np.dstack([np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8)])
    rgba[:, 3:6, 3] = 128
    rgba[:, 6:, 3] = 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode_rgb(encode(rgba, kind, **options), "x", backend)
    assert decoded[0, 0].tolist() == [255] * 3  # transparent black is white
    assert abs(int(decoded[0, 4, 0]) - 127) <= 1
    assert decoded[0, 8].tolist() == [0] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_gray_alpha_and_transparent_palette_too(backend: str) -> None:
    gray_alpha = np.zeros((4, 4, 2), np.uint8)
    assert decode_rgb(encode(gray_alpha, "PNG"), "x", backend).min() == 255
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((1, 1), 1)
    decoded = decode_rgb(encode(palette, "PNG", transparency=0), "x", backend)
    assert decoded[0, 0].tolist() == [255] * 3
    assert decoded[1, 1].tolist() == [200, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_gif_gives_its_first_frame(backend: str) -> None:
    frames = [Image.new("RGB", (8, 6), c) for c in ((250, 0, 0), (0, 250, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_rgb(data, "x", backend)[3, 3].tolist() == [250, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, backend: str) -> None:
    upright = picture()
    stored = {  # how a camera stores an upright scene under each EXIF value
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(np.ascontiguousarray(stored), exif=exif)
    decoded = decode_rgb(data, "x", backend)
    assert decoded.shape == upright.shape
    assert difference(decoded, upright) <= 8


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_errors(kind: str, share: float, backend: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    if kind == "progressive":
        data = jpeg(noise, progressive=True, quality=70)
    else:
        data = encode(noise, kind)
    with pytest.raises(ImageError, match=r"^a\.img: .*(truncated|corrupt|cannot be decoded)"):
        decode_rgb(data[: int(len(data) * share)], "a.img", backend)


def test_a_jpeg_cut_after_its_thumbnail_is_truncated() -> None:
    thumbnail = jpeg(picture(12, 16))
    assert thumbnail.endswith(b"\xff\xd9")
    data = jpeg(picture(200, 300))
    header = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + header + data[2:]
    assert decode_rgb(whole, "x").shape == (200, 300, 3)
    with pytest.raises(ImageError, match=r"truncated JPEG \("):
        decode_rgb(whole[: len(whole) * 3 // 4], "x")
    with pytest.raises(ImageError, match=r"truncated JPEG \("):
        decode_rgb(whole[: 2 + len(header)], "x")  # ends right behind the thumbnail


def test_a_webp_shorter_than_it_says_is_truncated() -> None:
    data = encode(picture(), "WEBP")
    with pytest.raises(ImageError, match=rf"truncated WebP \({len(data) - 9} of {len(data)} bytes"):
        decode_rgb(data[:-9], "x")


def test_bytes_after_the_end_mark_are_harmless() -> None:
    data = jpeg(picture())
    for trailer in (b"\0" * 1000, b"\n", b"SEFT" * 50, jpeg(picture(10, 10))):
        np.testing.assert_array_equal(decode_rgb(data + trailer, "x"), decode_rgb(data, "x"))


def test_fill_bytes_between_segments_are_harmless() -> None:
    data = jpeg(picture())
    padded = data[:2] + b"\xff\xff" + data[2:]
    np.testing.assert_array_equal(decode_rgb(padded, "x"), decode_rgb(data, "x"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "data",
    [b"hello world\n" * 50, bytes(500), b"<html>not found</html>", b"\xff"],
    ids=["text", "zeros", "html", "one byte"],
)
def test_what_is_no_image_says_so(data: bytes, backend: str) -> None:
    with pytest.raises(ImageError, match=r"^a\.jpg: not an image of a known format"):
        decode_rgb(data, "a.jpg", backend)


def test_a_jpeg_without_pixels_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"^x: .*JPEG"):
        decode_rgb(b"\xff\xd8\xff\xda" + bytes(100) + b"\xff\xd9", "x")


def test_a_header_that_promises_too_many_pixels_is_an_error() -> None:
    data = bytearray(encode(picture(), "PNG"))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError, match=r"^big: "):
        decode_rgb(bytes(data), "big")


def test_missing_empty_and_directory_are_named(tmp_path: Path) -> None:
    decode = DecodeImage()
    with pytest.raises(ImageError, match=r"none\.jpg: cannot be read: No such file"):
        decode({"image": tmp_path / "none.jpg"})
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        decode({"image": str(tmp_path / "empty.jpg")})
    with pytest.raises(ImageError, match="cannot be read"):
        decode({"image": str(tmp_path)})


def test_names_in_other_scripts_and_with_spaces(tmp_path: Path) -> None:
    for name in ("图像 一.png", "фото.png", "ñ ü.png"):
        (tmp_path / name).write_bytes(encode(picture(), "PNG"))
        sample = DecodeImage()({"image": str(tmp_path / name)})
        np.testing.assert_array_equal(sample["image"], picture())


def test_options_of_the_operator() -> None:
    data = encode(picture(), "PNG")
    bgr = DecodeImage(to_rgb=False)({"image": data})["image"]
    np.testing.assert_array_equal(bgr, picture()[..., ::-1])
    chw = DecodeImage(channel_first=True)({"image": data})["image"]
    np.testing.assert_array_equal(chw, picture().transpose(2, 0, 1))
    assert chw.flags.c_contiguous
    with pytest.raises(ImageError, match=r"^photo\.png: "):
        DecodeImage()({"image": b"text", "path": "photo.png"})
    with pytest.raises(UserError, match="got float; expected a path"):
        DecodeImage()({"image": 1.5})


def test_arrays_are_brought_to_rgb() -> None:
    rgb = picture()
    assert DecodeImage()({"image": rgb})["image"] is rgb
    np.testing.assert_array_equal(array_to_rgb(rgb[..., 0])[..., 2], rgb[..., 0])
    np.testing.assert_array_equal(array_to_rgb(rgb[..., :1])[..., 1], rgb[..., 0])
    deep = rgb.astype(np.uint16) << 8
    np.testing.assert_array_equal(array_to_rgb(deep), rgb)
    clear = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    assert array_to_rgb(clear).min() == 255


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["float", "two channels", "one axis", "no pixels"],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(UserError, match="array"):
        array_to_rgb(array)


def test_other_numbers_of_channels(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    found = DecodeImage(channels=4)({"image": str(tmp_path / "a.png")})["image"]
    np.testing.assert_array_equal(found, rgba[..., [2, 1, 0, 3]])
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", rgba[..., :3])[1].tobytes())
    found = DecodeImage(channels=4)({"image": str(tmp_path / "b.png")})["image"]
    np.testing.assert_array_equal(found[..., :3], rgba[..., 2::-1])
    assert (found[..., 3] == 255).all()
    deep = np.random.default_rng(1).integers(0, 65536, (5, 7, 6), np.uint16)
    np.save(tmp_path / "c.npy", deep)
    found = DecodeImage(channels=6)({"image": str(tmp_path / "c.npy")})["image"]
    np.testing.assert_array_equal(found, deep >> 8)
    with pytest.raises(ImageError, match=r"got \(5, 7, 6\) of type uint8; expected \(H, W, 5\)"):
        DecodeImage(channels=5)({"image": str(tmp_path / "c.npy")})
    with pytest.raises(UserError, match="channels other than 3 need to_rgb: True"):
        DecodeImage(channels=4, to_rgb=False)


def test_gray() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    found = ToGray()({"image": image})["image"]
    assert found.shape == (3, 4, 1) and found.dtype == np.uint8
    assert abs(found[..., 0] - image @ [0.299, 0.587, 0.114]).max() <= 0.5 + 1e-6
    with pytest.raises(UserError, match=r"expected an RGB image \(H, W, 3\), got \(3, 4, 1\)"):
        ToGray()({"image": found})
