"""Every kind of image file against the gradient it holds, by both backends; damaged ones too."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.image_fuzz import fuzz
from experiments.image_kinds import Kind, all_kinds
from ppcls_lite.data.transforms.image_file import decode_rgb
from ppcls_lite.errors import ImageError

KINDS = all_kinds()
ROUNDING = 1.0  # of transparency; exact otherwise
LOSSY = 2.5  # JPEG, and Lab by a colour profile


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_the_pixels_are_right_or_refused_with_the_reason(kind: Kind, backend: str) -> None:
    if kind.expected is None:
        with pytest.raises(
            ImageError, match=r"^x: a (PNG|TIFF) of .*save it with 8 bits"
        ) as caught:
            decode_rgb(kind.data, "x", backend)
        assert "corrupt" not in str(caught.value)
        return
    found = decode_rgb(kind.data, "x", backend)
    slack = LOSSY if kind.name.startswith("JPEG") or kind.name.endswith("Lab") else ROUNDING
    assert found.dtype == np.uint8 and found.shape == (16, 16, 3)
    assert np.abs(found - kind.expected).max() <= slack


def test_what_is_refused() -> None:
    refused = {kind.name for kind in KINDS if kind.expected is None}
    assert "PNG RGB 16, one transparent" in refused
    for order in "<>":
        names = {name.removeprefix(f"TIFF {order} ") for name in refused}
        assert {"u32 x1", "i8 x3", "i16 x1", "f16 x1", "f32 x3", "f64 x4"} <= names
        assert {"gray-alpha 16", "CMYK 16"} <= names
        assert not {"u8 x1", "u16 x3", "white is zero 16", "Lab"} & names


def test_damaged_files_give_pixels_or_an_image_error() -> None:
    found = fuzz(400, seed=1)
    assert found.faults == []
    assert found.outcomes["pixels"] > 50
    assert sum(found.outcomes.values()) == 800
    assert any("truncated" in outcome for outcome in found.outcomes)
    assert fuzz(40, seed=3).outcomes == fuzz(40, seed=3).outcomes


def test_the_fuzz_notices_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> np.ndarray:
        raise IndexError("out of range")

    monkeypatch.setattr("ppcls_lite.data.transforms.decode.decode_rgb", broken)
    found = fuzz(2, seed=0)
    assert len(found.faults) == 4 and "IndexError: out of range" in found.faults[0]
