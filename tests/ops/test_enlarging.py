"""Classes of enlarged scores, without enlarging them: as if all had been."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.ops.enlarging import enlarged_classes


def plain(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """All scores, interpolated."""
    return F.interpolate(paddle.to_tensor(scores[None]), size, mode="bilinear").numpy()[0]


@pytest.mark.parametrize(
    ("small", "size"),
    [((32, 64), (128, 256)), ((13, 21), (50, 81)), ((1, 1), (3, 5)), ((9, 7), (9, 7))],
)
@pytest.mark.parametrize("blur", [0, 3])
def test_the_classes_are_those_of_all_scores(
    small: tuple[int, int], size: tuple[int, int], blur: int
) -> None:
    scores = np.random.default_rng(0).standard_normal((150, *small)).astype(np.float32)
    if blur:  # regions, as photographs have them
        smooth = [cv2.GaussianBlur(plane, (0, 0), blur).reshape(small) for plane in scores]
        scores = np.ascontiguousarray(smooth)
    found, full = enlarged_classes(scores, size), plain(scores, size)
    assert found.dtype == np.int32 and found.shape == size
    best = np.take_along_axis(full, found[None].astype(np.int64), axis=0)[0]
    assert (best >= full.max(axis=0) - 2e-6).all()  # another class only at a tie
    assert (found != full.argmax(axis=0)).mean() < 1e-3


def test_a_class_that_wins_nowhere_before_may_win_between() -> None:
    scores = np.array([[[10.0, 0]], [[9, 9]], [[0, 10]]], np.float32)  # (3, 1, 2)
    found = enlarged_classes(scores, (1, 8))
    assert set(found[0].tolist()) == {0, 1, 2}
    assert (found == plain(scores, (1, 8)).argmax(axis=0)).all()


def test_of_equal_scores_the_first_class_wins() -> None:
    assert not enlarged_classes(np.ones((3, 2, 2), np.float32), (5, 5)).any()
