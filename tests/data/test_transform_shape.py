"""What shape a list of transforms gives to images."""

from __future__ import annotations

from typing import Any

import pytest

from ppcls_lite.config.check import build_list
from ppcls_lite.data.transforms.compose import shape_of


@pytest.mark.parametrize(
    ("ops", "shape"),
    [
        ([{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}], (3, 224, 224)),
        ([{"ResizeImage": {"size": [160, 80]}}, "ToCHWImage"], (3, 80, 160)),
        ([{"Resize": {"size": [80, 160]}}, {"NormalizeImage": {"order": "hwc"}}], (3, 80, 160)),
        ([{"ResizeImage": {"size": 30}}, {"Pad": {"padding": [1, 2, 3, 4]}}], (3, 36, 34)),
        ([{"ResizeImage": {"resize_short": 64}}], (3, -1, -1)),
        ([], (3, -1, -1)),
    ],
)
def test_the_shape_is_what_any_image_becomes(ops: list[Any], shape: tuple[int, ...]) -> None:
    assert shape_of(build_list(["DecodeImage", *ops], "transform")) == shape
