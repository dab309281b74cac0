"""Letters are readable on any colour, and their edge lies around them alone."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_lite.ops.lettering import write


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_letters_have_an_edge_around_them(ground: int) -> None:
    picture = np.full((30, 120, 3), ground, np.uint8)
    write(picture, "tree  12.5%", (5, 20))
    bright, dark = picture[..., 0] > 200, picture[..., 0] < 60
    columns = np.flatnonzero((picture != ground).any(axis=(0, 2)))
    assert columns.size and (dark & (ground != 0)).any() == (ground != 0)
    if ground == 128:
        letters = np.flatnonzero(bright.any(axis=0))
        assert letters.size > 20
        assert columns[0] >= letters[0] - 2 and columns[-1] <= letters[-1] + 2
