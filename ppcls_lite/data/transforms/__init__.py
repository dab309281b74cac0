"""Transforms: what happens to one sample between the disk and the batch.

A transform is called as `op(sample, rng)` and returns the sample, a dict whose `image` is (H, W, 3)
uint8 RGB after `DecodeImage`; all randomness comes from `rng`. `follows_size` declares that a
multi-scale sample's `size` (height, width) replaces its own, `channel_first` that it leaves the
image (C, H, W). Read next: compose.py, then decode.py and onwards.
"""

from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage, Normalizer, ToCHWImage

__all__ = ["Compose", "DecodeImage", "NormalizeImage", "Normalizer", "ToCHWImage"]
