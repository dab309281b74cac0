"""What stands below an image of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_lite.data.labels import caption_of

NAMES = ["cat", "dog", "hen"]


@pytest.mark.parametrize(
    ("label", "one_class", "expected"),
    [
        (np.int64(1), True, "dog"),
        (np.array([2]), True, "hen"),
        (np.int64(7), True, "7"),  # more classes than names
        (np.int64(-1), True, "no label"),
        (np.float32([0, 0.3, 0.7]), True, "hen 0.70 dog 0.30"),
        (np.float32([0, 1, 0]), True, "dog"),
        (np.float32([1, 0, 1]), False, "cat, hen"),
        (np.float32([[0, 0, 1], [0.6, 0.6, 0.6]]), False, "hen"),  # below them, their shares
        (np.float32([0, 0, 0]), False, "none"),
    ],
)
def test_a_caption(label: np.ndarray, one_class: bool, expected: str) -> None:
    assert caption_of(np.asarray(label), one_class, NAMES) == expected


def test_without_names_there_are_numbers() -> None:
    assert caption_of(np.array(1), True, None) == "1"
