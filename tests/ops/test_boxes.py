"""Overlaps and distances, by hand, and alike for arrays and tensors."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_lite.ops import boxes as ops

A = np.array([[0, 0, 10, 10], [0, 0, 4, 4], [1, 2, 3, 4], [5, 5, 5, 5]], np.float32)
B = np.array([[5, 5, 15, 15], [6, 6, 9, 9], [1, 2, 3, 4], [5, 5, 5, 5]], np.float32)


def test_overlaps_by_hand() -> None:
    assert ops.area(A).tolist() == [100, 16, 4, 0]
    assert ops.intersection(A, B).tolist() == [25, 0, 4, 0]
    np.testing.assert_allclose(ops.iou(A, B), [25 / 175, 0, 1, 0], rtol=1e-6)
    expected = [25 / 175 - 50 / 225, -56 / 81, 1]
    np.testing.assert_allclose(ops.giou(A, B)[:3], expected, rtol=1e-6)
    assert ops.iou(A[:, None], B[None]).shape == (4, 4)


def test_a_box_that_ends_before_it_begins_is_empty() -> None:
    turned = np.array([[10, 10, 0, 0]], np.float32)
    assert ops.area(turned).tolist() == [0]
    assert ops.iou(turned, A[:1]).tolist() == [0]


def test_distances_and_the_way_back() -> None:
    points = ops.centres(A)
    assert points[0].tolist() == [5, 5]
    sides = ops.distances(points + 1, A)
    assert sides[0].tolist() == [6, 6, 4, 4]
    np.testing.assert_array_equal(ops.depth(points + 1, A), sides.min(axis=-1))
    np.testing.assert_array_equal(ops.boxes_around(points + 1, sides), A)


@pytest.mark.parametrize("name", ["intersection", "iou", "giou"])
def test_tensors_give_what_arrays_give(name: str) -> None:
    function = getattr(ops, name)
    found = function(paddle.to_tensor(A), paddle.to_tensor(B))
    np.testing.assert_array_equal(found.numpy(), function(A, B))
    points = paddle.to_tensor(A[:, :2])
    back = ops.boxes_around(points, ops.distances(points, paddle.to_tensor(B)))
    np.testing.assert_array_equal(back.numpy(), B)
