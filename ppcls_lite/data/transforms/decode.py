"""DecodeImage: the first step of a chain, from a path or bytes to an RGB array.

What happens to grayscale, 16-bit, CMYK, palette, transparent and rotated images stands in
image_file.py, what counts as broken in image_header.py. Read next: geometry.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, Ignored, Megapixels
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.geometry import Meta, Rng, Sample
from ppcls_lite.data.transforms.image_file import (
    array_to,
    decode_channels,
    decode_rgb,
    pillow_to,
    read_file,
)
from ppcls_lite.data.transforms.image_header import jpeg_size
from ppcls_lite.errors import ImageError, UserError

_PLACED = {"boxes", "mask", "meta"}  # what is measured in the pixels of the whole image


@register("transform")
@dataclass
class DecodeImage:
    """Decode `sample["image"]` (a path, bytes or an array) into an (H, W, 3) uint8 RGB array.

    An array is taken as RGB (or gray, or RGBA). With bytes, `sample["path"]` is the image's name in
    an error. A key `meta` gets the size of the decoded image, as a geometry.Meta. `to_rgb` false
    gives BGR, `channel_first` (3, H, W), which only NormalizeImage with order "chw" may follow.
    `to_np` has no effect.

    `reduced` (with "cv2", before a RandCropImage) decodes a JPEG at 1/2, 1/4 or 1/8 of its size if
    the part that is cut out is even then not smaller than what it is resized to. The parts are the
    same as without it, their pixels are averages instead of samples (docs/performance.md). Raises
    ImageError for a file that is missing, empty, truncated, corrupt or no image, or whose header
    says that it has more than `max_megapixels` million pixels.

    `channels` 4 gives RGBA, opaque where a file has no transparency; any other number takes files
    with as many samples a pixel (TIFF, or an (H, W, C) array of type uint8 or uint16 as .npy) as
    they are, of 16 bits the high byte. For grey images see ToGray.
    """

    to_np: Ignored = True
    to_rgb: bool = True
    channel_first: bool = False
    backend: Literal["cv2", "pil"] = "cv2"
    reduced: bool = False
    max_megapixels: Megapixels = 100
    channels: Channels = 3

    def __post_init__(self) -> None:
        if self.channels != 3 and (self.reduced or not self.to_rgb):
            raise UserError("DecodeImage: channels other than 3 need to_rgb: True, reduced: False")
        if self.reduced and (self.backend != "cv2" or self.channel_first):
            raise UserError("DecodeImage: reduced needs backend: cv2 and channel_first: False")
        self.crop: RandCropImage | None = None

    def before(self, following: object) -> None:
        """Tell a decoder that reduces what comes next: UserError unless a RandCropImage."""
        if not self.reduced:
            return
        if not isinstance(following, RandCropImage):
            raise UserError(
                "DecodeImage: reduced looks ahead to the part that RandCropImage cuts out, which "
                f"has to follow at once; found {type(following).__name__}"
            )
        self.crop = following

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The whole image of a file, (H, W, 3) uint8 RGB."""
        return self._rgb(read_file(path), str(path))

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        image, name = sample["image"], str(sample.get("path", "image"))
        if isinstance(image, np.ndarray):
            image = array_to(image, self.channels, name)
        elif isinstance(image, (str, os.PathLike)):
            image = self._decode(read_file(image), str(image), sample, rng)
        elif isinstance(image, (bytes, bytearray, memoryview)):
            image = self._decode(bytes(image), name, sample, rng)
        elif isinstance(image, Image.Image):
            image = pillow_to(image, self.channels, name)
        else:
            raise UserError(
                f"DecodeImage: got {type(image).__name__}; expected a path, bytes, an array or a "
                "Pillow image"
            )
        if "mask" in sample and sample["mask"].shape != image.shape[:2]:
            sizes = ("{1}x{0}".format(*found.shape[:2]) for found in (image, sample["mask"]))
            raise ImageError(
                "{}: the image has {} pixels, its mask {}; a mask has the size of its image: "
                "correct the pair, or save the mask again in that size".format(name, *sizes)
            )
        if not self.to_rgb:
            image = np.ascontiguousarray(image[..., ::-1])
        if "meta" in sample:
            sample["meta"] = Meta(*image.shape[:2])
        if self.channel_first:
            image = np.ascontiguousarray(image.transpose(2, 0, 1))  # (3, H, W)
        sample["image"] = image
        return sample

    def _rgb(self, data: bytes, name: str, reduced: int = 1) -> np.ndarray:
        most = round(self.max_megapixels * 1e6)
        if self.channels != 3:
            return decode_channels(data, name, self.channels, most)
        return decode_rgb(data, name, self.backend, reduced, most)

    def _decode(self, data: bytes, name: str, sample: Sample, rng: Rng) -> np.ndarray:
        """The image, possibly reduced; then the part to cut out is in `sample["part"]`."""
        size = None
        if self.crop is not None and rng is not None and not _PLACED & sample.keys():
            size = jpeg_size(data)
        if size is None:
            return self._rgb(data, name)
        left, top, width, height = self.crop.part(*size, rng)
        wanted = self.crop.target(sample)
        factor = next(
            (f for f in (8, 4, 2) if width >= f * wanted[0] and height >= f * wanted[1]), 1
        )
        image = self._rgb(data, name, factor)
        right = min(round((left + width) / factor), image.shape[1])
        bottom = min(round((top + height) / factor), image.shape[0])
        left, top = round(left / factor), round(top / factor)
        sample["part"] = (left, top, right - left, bottom - top)
        return image
