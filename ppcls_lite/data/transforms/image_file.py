"""Image files to RGB arrays: which kinds are accepted, and how each one is turned into 8-bit RGB.

Grayscale is repeated three times; palettes are expanded; 16-bit samples keep their high byte; CMYK
and YCCK JPEGs are converted by the decoder; transparency is composited on white (other than
`cv2.imdecode`, which drops it: the colour below is arbitrary, often black); the EXIF orientation is
applied; of an animation the first frame counts. What goes wrong with one file, whatever a decoder
raises, is an ImageError. Read before: image_header.py. Read next: decode.py.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ppcls_lite.data.transforms.bands import MOST_OF_OTHERS, is_tiff, read_bands
from ppcls_lite.data.transforms.image_header import (
    ADVICE,
    UNCLEAR,
    Header,
    read_header,
    undecodable,
)
from ppcls_lite.errors import ImageError, UserError

MAX_PIXELS = 100_000_000  # of an image, unless said otherwise: as RGB 0.3 GB
_ARRAY = b"\x93NUMPY"  # how a .npy file begins
_STRIP = 2**20  # pixels that are converted at once
_READ = {  # divisor of the size -> how OpenCV reads; with RGB, "grayscale" only gives the size
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; ImageError where it is missing, unreadable or empty."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path}: cannot be read: {reason}") from error
    except MemoryError as error:
        raise ImageError(f"{path}: there is not enough memory to read it") from error
    if not data:
        raise ImageError(f"{path}: the file is empty; {ADVICE}")
    return data


def decode_rgb(
    data: bytes,
    name: str,
    backend: str = "cv2",
    reduced: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image file's bytes into an (H, W, 3) uint8 RGB array.

    `name` is what an ImageError calls it where it is truncated, corrupt, no image, or of more than
    `max_pixels` by its header; `backend` is "cv2" or "pil". `reduced` 2, 4 or 8 divides the size of
    a JPEG (rounded up), with "cv2" only. Memory is bounded by `max_pixels`: some 7 bytes for each.
    """
    try:
        header = read_header(data)
        if header.width * header.height > max_pixels:
            raise ImageError(
                f"{header.width} x {header.height} pixels; expected at most {max_pixels / 1e6:g} "
                "million (DecodeImage: max_megapixels)"
            )
        if (header.decoder or backend) == "pil":
            return _by_pillow(data, header)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _READ[reduced])
        if image is None or image.dtype != np.uint8:
            raise undecodable(data)
        return image  # (H, W, 3)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {undecodable(data)}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: there is not enough memory to decode it") from error
    except Exception as error:  # for damaged bytes Pillow's readers raise nearly anything
        raise ImageError(f"{name}: cannot be decoded: {error}; {ADVICE}") from error


def decode_channels(data: bytes, name: str, channels: int, max_pixels: int) -> np.ndarray:
    """Decode an image file's bytes, or those of a .npy, into an (H, W, channels) uint8 array.

    4 is RGBA, opaque where the file has no transparency; of another number the file has to have as
    many samples a pixel. ImageError else, or for what `decode_rgb` refuses.
    """
    try:
        if channels == 4 and not data.startswith(_ARRAY):
            return _rgba(data, name, max_pixels)
        if data.startswith(_ARRAY):
            image = np.load(io.BytesIO(data), allow_pickle=False)
        elif channels > MOST_OF_OTHERS and is_tiff(data):
            image = read_bands(data, max_pixels * channels)
        else:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise undecodable(data)
        if image.size > max_pixels * channels:
            raise ImageError(f"{image.size} samples; expected at most {max_pixels * channels}")
        return array_to(image, channels, name)
    except UserError as error:
        raise ImageError(str(error)) from error
    except ImageError as error:
        raise ImageError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    except Exception as error:  # for damaged bytes the readers raise nearly anything
        raise ImageError(f"{name}: cannot be decoded: {error}; {ADVICE}") from error


def _rgba(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    opaque = decode_rgb(data, name, "pil", max_pixels=max_pixels)  # refuses what is damaged
    with Image.open(io.BytesIO(data)) as image:
        if not image.has_transparency_data:
            return array_to(opaque, 4, name)
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image.convert("RGBA"))  # (H, W, 4)


def array_to(image: np.ndarray, channels: int, name: str = "image") -> np.ndarray:
    """An array as (H, W, channels) uint8: `array_to_rgb` for 3, RGB made opaque for 4.

    Others are taken as they are, of uint16 the high byte. UserError for another shape or type.
    """
    if channels == 3:
        return array_to_rgb(image, name)
    if channels == 4 and (image.ndim == 2 or image.shape[-1] in (1, 3)):
        image = array_to_rgb(image, name)
        return np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or not image.size:
        raise UserError(
            f"{name}: got {image.shape} of type {image.dtype}; expected (H, W, {channels}) of type "
            f"uint8 or uint16, as DecodeImage.channels says"
        )
    return image


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
        return _to_rgb(Image.fromarray(np.ascontiguousarray(image)))  # (H, W, 3)
    return image


def pillow_to(image: Image.Image, channels: int, name: str = "image") -> np.ndarray:
    """A Pillow image, upright, as (H, W, channels) uint8, as if it came from a file.

    ImageError where its file cannot be read.
    """
    try:
        image = ImageOps.exif_transpose(image)  # a copy
        if channels == 4:
            return np.asarray(image.convert("RGBA"))  # (H, W, 4)
        key = image.info.get("transparency")
        deep = image.mode.startswith("I")
        pixels = _deep_gray(np.asarray(image), key) if deep else _to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # for damaged bytes Pillow's readers raise nearly anything
        raise ImageError(f"{name}: Pillow cannot read it: {error}; {ADVICE}") from error
    return array_to(pixels, channels, name)


def _by_pillow(data: bytes, header: Header) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        key = image.info.get("transparency")
        if image.mode.startswith("I"):  # 16-bit gray: Pillow would clip it at 255
            return _deep_gray(np.asarray(image), key)
        if key is not None and 0 < header.depth < 8 and image.mode in ("1", "L"):
            image = image.convert("L")  # Pillow widens the samples but not the key
            image.info["transparency"] = key * 255 // ((1 << header.depth) - 1)
        return _to_rgb(image)


def _deep_gray(gray: np.ndarray, key: int | None) -> np.ndarray:
    """The high byte of 16-bit samples (H, W), white where they are `key`."""
    if gray.min() < 0 or gray.max() > 65535:
        raise ImageError(f"32-bit samples, {UNCLEAR}")
    high = (gray >> 8).astype(np.uint8)
    if key is not None:
        high[gray == key] = 255
    return np.repeat(high[..., None], 3, axis=2)  # (H, W, 3)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """An image laid over white, (H, W, 3) uint8, strip by strip to save memory."""
    transparent = image.has_transparency_data
    width, height = image.size
    result = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image
        if rows < height:
            strip = image.crop((0, top, width, min(top + rows, height)))
        if transparent:
            strip = _on_white(strip.convert("RGBA"))
        elif strip.mode != "RGB":
            strip = strip.convert("RGB")
        result[top : top + rows] = np.asarray(strip)
    return result  # (H, W, 3)


def _on_white(image: Image.Image) -> Image.Image:
    """An RGBA image laid over white, as RGB."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
