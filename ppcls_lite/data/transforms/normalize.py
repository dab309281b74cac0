"""Normalisation: per image as a transform, or once per batch, deferred to the loader or device.

(image * scale - mean) / std in float32: for 8-bit images a table with 256 entries per channel, so
that a batch is normalised exactly and transposed in one pass. Read next: compose.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Deviation, PositiveFloat
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SCALE = 1 / 255


class Normalizer:
    """Turns a stacked batch of images into the network's input.

    `factor` and `offset` (C,) float32 give the same as image * factor + offset, up to rounding in
    the last digit, for whoever normalises on a device.
    """

    def __init__(self, scale: float, mean: np.ndarray, std: np.ndarray) -> None:
        self.scale = np.float32(scale)
        self.mean = np.asarray(mean, np.float32)  # (C,)
        self.std = np.asarray(std, np.float32)  # (C,)
        self.factor = self.scale / self.std  # (C,)
        self.offset = -self.mean / self.std  # (C,)
        values = np.arange(256, dtype=np.float32)[:, None]
        self._table = np.ascontiguousarray(self._exact(values).T)  # (C, 256)

    def normalize_batch(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8, or float32 in the range 0 to 255, to (N, C, H, W) float32."""
        n, height, width, channels = images.shape
        if channels != len(self.mean):
            raise UserError(
                f"NormalizeImage: images have {channels} channels, mean has {len(self.mean)}"
            )
        result = np.empty((n, channels, height, width), np.float32)
        for image, planes in zip(images, result):
            if image.dtype == np.uint8:
                for plane, target, table in zip(cv2.split(image), planes, self._table):
                    cv2.LUT(plane, table, dst=target)
            else:
                planes[:] = self._exact(image.astype(np.float32)).transpose(2, 0, 1)
        return result  # (N, C, H, W)

    def normalize_image(self, image: np.ndarray) -> np.ndarray:
        """One (H, W, C) image to (C, H, W) float32, equal to its row of a batch."""
        return self.normalize_batch(image[None])[0]  # (C, H, W)

    def _exact(self, image: np.ndarray) -> np.ndarray:
        return (image * self.scale - self.mean) / self.std


@register("transform")
@dataclass
class NormalizeImage:
    """(image * scale - mean) / std in float32; the defaults are ImageNet's, scale 1/255.

    `order` names the layout of the image that comes in: "chw", or "hwc" or "" for (H, W, C). mean
    and std have a number for each channel. `channel_num` 4 appends a channel of zeros;
    `output_fp16` gives float16.
    """

    scale: PositiveFloat | None = None
    mean: list[float] | None = None
    std: list[Deviation] | None = None
    order: Literal["chw", "hwc", ""] = "chw"
    output_fp16: bool = False
    channel_num: Literal[3, 4] = 3

    def __post_init__(self) -> None:
        scale = SCALE if self.scale is None else self.scale
        mean, std = self.mean or IMAGENET_MEAN, self.std or IMAGENET_STD
        if len(mean) != len(std):
            raise UserError(
                f"NormalizeImage: mean {list(mean)} and std {list(std)}: expected one number for "
                "each channel in both"
            )
        self.normalizer = Normalizer(scale, np.array(mean), np.array(std))

    @property
    def can_wait(self) -> bool:
        """Whether a `Normalizer` gives the same result later, for the whole batch."""
        return not self.output_fp16 and self.channel_num == 3

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        image = sample["image"]
        hwc = image.transpose(1, 2, 0) if self.order == "chw" else image  # (H, W, C)
        planes = self.normalizer.normalize_image(hwc)  # (C, H, W)
        if self.channel_num == 4:
            planes = np.concatenate([planes, np.zeros_like(planes[:1])])  # (4, H, W)
        if self.output_fp16:
            planes = planes.astype(np.float16)
        sample["image"] = planes if self.order == "chw" else planes.transpose(1, 2, 0)  # (H, W, C)
        return sample


@register("transform")
class ToGray:
    """The luminance of an RGB image, (H, W, 1), for networks with `in_channels: 1`.

    It stands right before NormalizeImage, which then has one number for mean and std; what comes
    before it sees three equal colours of a grey file. 0.299 R + 0.587 G + 0.114 B, rounded.
    """

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        image = sample["image"]
        if image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"ToGray: expected an RGB image (H, W, 3), got {image.shape}")
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
        sample["image"] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
        return sample


@register("transform")
class ToCHWImage:
    """(H, W, C) to (C, H, W); appended to every chain that does not name it."""

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        sample["image"] = np.ascontiguousarray(sample["image"].transpose(2, 0, 1))  # (C, H, W)
        return sample
