"""Resizing by a factor, and the window with padding: image and mask together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppcls_lite.data.transforms.crop import Padv2, RandomPadCrop
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.data.transforms.scale import (
    LimitLong,
    RandomScaleImage,
    ResizeByLong,
    ResizeByShort,
    ResizeRangeScaling,
)
from ppcls_lite.errors import UserError


def sample(height: int, width: int) -> dict[str, Any]:
    """Columns that count, in the image and in the mask."""
    mask = np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width)).copy()
    return {"image": mask[..., None].repeat(3, axis=2), "mask": mask}


def size(found: dict[str, Any]) -> tuple[int, int]:
    assert found["image"].shape[:2] == found["mask"].shape
    return found["mask"].shape


def test_factors_are_a_step_apart() -> None:
    op, rng = RandomScaleImage(0.5, 2.0, 0.25), np.random.default_rng(0)
    sizes = {size(op(sample(40, 60), rng)) for _ in range(100)}
    assert sizes == {(round(40 * k), round(60 * k)) for k in np.arange(0.5, 2.01, 0.25)}
    free, rng = RandomScaleImage(0.5, 2.0, 0), np.random.default_rng(0)
    widths = [size(free(sample(40, 60), rng))[1] for _ in range(40)]
    assert len(set(widths)) > 20 and min(widths) >= 30 and max(widths) <= 120


def test_a_mask_keeps_its_labels_and_its_place() -> None:
    op = RandomScaleImage(2.0, 2.0, 0.5)
    two = {"image": np.zeros((4, 4, 3), np.uint8), "mask": np.zeros((4, 4), np.uint8)}
    two["image"][:, 2:], two["mask"][:, 2:] = 255, 7
    found = op(two, np.random.default_rng(0))
    assert np.unique(found["mask"]).tolist() == [0, 7]
    assert (found["mask"][:, 4:] == 7).all() and (found["image"][:, 5:] == 255).all()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (ResizeByLong(30), (20, 30)),
        (ResizeByShort(20), (20, 30)),
        (ResizeByShort(80, max_size=90), (60, 90)),
        (LimitLong(max_long=30), (20, 30)),
        (LimitLong(min_long=120), (80, 120)),
        (LimitLong(max_long=70, min_long=50), (40, 60)),
        (ResizeRangeScaling(90, 90), (60, 90)),
        (ResizeImage([90, 90], keep_ratio=True), (60, 90)),
        (ResizeImage([30, 90], keep_ratio=True), (30, 45)),
        (ResizeImage([30, 90], keep_ratio=True, size_divisor=32), (32, 64)),
        (ResizeImage([50, 33], size_divisor=16), (48, 64)),
        (Padv2(64), (64, 64)),
    ],
)
def test_sizes(op: Any, expected: tuple[int, int]) -> None:
    assert size(op(sample(40, 60), np.random.default_rng(0))) == expected


def test_the_short_edge_of_one_image_does_not_bind_the_next() -> None:
    op = ResizeByShort(80, max_size=90)
    assert size(op(sample(40, 60))) == (60, 90)
    assert size(op(sample(60, 60))) == (80, 80)


def test_a_window_inside() -> None:
    op = RandomPadCrop([20, 10])
    places = set()
    for seed in range(60):
        found = op(sample(12, 24), np.random.default_rng(seed))
        assert size(found) == (10, 20)
        np.testing.assert_array_equal(found["image"][..., 0], found["mask"])
        places.add(int(found["mask"][0, 0]))
    assert places == {0, 1, 2, 3, 4}
    assert size(op(sample(10, 20), np.random.default_rng(0))) == (10, 20)


def test_a_small_image_is_filled_up_on_its_right_and_below() -> None:
    found = RandomPadCrop([40, 16], mask_fill=9)(sample(10, 30), np.random.default_rng(0))
    assert size(found) == (16, 40)
    assert (found["mask"][:, 30:] == 9).all() and (found["mask"][10:] == 9).all()
    assert (found["image"][10:] == 128).all()
    np.testing.assert_array_equal(found["mask"][:10, :30], sample(10, 30)["mask"])
    wide = RandomPadCrop([20, 16], fill=[1, 2, 3])(sample(10, 30), np.random.default_rng(1))
    assert size(wide) == (16, 20) and (wide["mask"][10:] == 255).all()
    assert (wide["image"][10:] == [1, 2, 3]).all()


def test_a_window_of_one_class_is_drawn_again() -> None:
    """One column of class 1 in a hundred of class 0: without the rule it is in a tenth of them."""

    def share(ratio: float) -> float:
        hits = 0
        for seed in range(100):
            one = {"image": np.zeros((10, 100, 3), np.uint8), "mask": np.zeros((10, 100), np.uint8)}
            one["mask"][:, 50], one["mask"][:, 51:60] = 1, 255
            op = RandomPadCrop([10, 10], category_max_ratio=ratio)
            hits += 1 in op(one, np.random.default_rng(seed))["mask"]
        return hits / 100

    assert share(1.0) < 0.25 and share(0.95) > 0.5
    # 255 counts nowhere: a window of class 0 and ignored pixels has one class.
    lone = {"image": np.zeros((4, 4, 3), np.uint8), "mask": np.zeros((4, 4), np.uint8)}
    lone["mask"][:2] = 255
    op = RandomPadCrop([4, 4], category_max_ratio=0.9)
    assert not op._is_mixed(lone, 0, 0, 4, 4)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: RandomScaleImage(2.0, 1.0), "min_scale 2 is above max_scale 1"),
        (lambda: RandomScaleImage(0.1, 2.0, 1e-5), "makes 190,001 factors"),
        (lambda: ResizeRangeScaling(5, 4), "min_value 5 is above"),
        (lambda: LimitLong(4, 5), "min_long 5 is above max_long 4"),
    ],
)
def test_what_cannot_be(make: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        make()
