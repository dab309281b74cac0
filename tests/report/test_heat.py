"""A map over an image: it glows where it is large, and only there."""

from __future__ import annotations

import numpy as np

from ppcls_lite.report.heat import beside, heated, seen


def test_the_largest_place_glows_and_what_is_against_does_not() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3], heat[3, 0] = 5, -50
    picture = heated(image, heat).astype(int)
    assert picture[3, 36].sum() > picture[20, 20].sum() + 100
    np.testing.assert_array_equal(picture[36, 3], picture[20, 20])
    same = heated(image, -np.ones((2, 2), np.float32))
    assert (same == same[0, 0]).all()


def test_inputs_become_pictures_side_by_side() -> None:
    grey = seen(np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 3, 4))
    assert grey.shape == (3, 4, 3) and grey.min() == 0 and grey.max() == 255
    assert beside(grey, grey).shape == (3, 12, 3)
