"""DecodeImage: the first step of a chain, from a path or bytes to an RGB array.

What happens to grayscale, 16-bit, CMYK, palette, transparent and rotated images, and what counts
as broken, stands in image_file.py. Read next: geometry.py.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np

from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.image_file import array_to_rgb, decode_rgb, read_file
from ppcls_lite.errors import UserError
from ppcls_lite.registry import register
from ppcls_lite.schema import Ignored


@register("transform")
class DecodeImage:
    """Decode `sample["image"]` (a path, bytes or an array) into an (H, W, 3) uint8 RGB array.

    An array is taken as RGB (or gray, or RGBA) and only brought into that shape. With bytes, the
    image is called `sample["path"]` in an error, if that key exists. `to_rgb` false gives BGR,
    `channel_first` gives (3, H, W), which only NormalizeImage with order "chw" may follow.
    `to_np` has no effect: images are arrays everywhere.

    Raises:
        ImageError: the file is missing, empty, truncated, corrupt or not an image.
    """

    def __init__(
        self,
        to_np: Ignored = True,
        to_rgb: bool = True,
        channel_first: bool = False,
        backend: Literal["cv2", "pil"] = "cv2",
    ) -> None:
        del to_np
        self.to_rgb = to_rgb
        self.channel_first = channel_first
        self.backend = backend

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        image = sample["image"]
        if isinstance(image, np.ndarray):
            image = array_to_rgb(image, str(sample.get("path", "image")))
        elif isinstance(image, (str, os.PathLike)):
            image = decode_rgb(read_file(image), str(image), self.backend)
        elif isinstance(image, (bytes, bytearray, memoryview)):
            image = decode_rgb(bytes(image), str(sample.get("path", "image")), self.backend)
        else:
            raise UserError(
                f"DecodeImage: got {type(image).__name__}; expected a path, bytes or an array"
            )
        if not self.to_rgb:
            image = np.ascontiguousarray(image[..., ::-1])
        if self.channel_first:
            image = np.ascontiguousarray(image.transpose(2, 0, 1))  # (3, H, W)
        sample["image"] = image
        return sample
