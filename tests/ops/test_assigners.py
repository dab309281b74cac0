"""Assigners: which places a box takes; PaddleDetection's values are in tests/losses."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import Tensor

from ppcls_lite.ops.assigners import Assignment, atss, background, simota, task_aligned

ALL = [simota, atss, task_aligned]
# two strides of an image of 64 x 64 pixels
CELLS = [(8, 8, 8), (4, 4, 16)]


def inputs(
    truth: list[list[float]], classes: list[int], found: list[float] | None = None
) -> tuple[Tensor, ...]:
    """scores, boxes, places, truth and classes of one image; every place says the box `found`."""
    rows = []
    for height, width, stride in CELLS:
        y, x = np.mgrid[:height, :width]
        cell = [(x + 0.5) * stride, (y + 0.5) * stride, np.full_like(x, stride)]
        rows.append(np.stack(cell, axis=-1).reshape(-1, 3))
    places = np.concatenate(rows).astype(np.float32)
    boxes = np.tile(np.array(found or truth[0], np.float32), (1, len(places), 1))
    scores = np.full((1, 2, len(places)), 0.5, np.float32)
    arrays = scores, boxes, places, np.array([truth], np.float32), np.array([classes])
    return tuple(map(paddle.to_tensor, arrays))


def places_of(assigned: Assignment, row: int = 0) -> list[int]:
    return np.flatnonzero(assigned.row.numpy()[0] == row).tolist()


@pytest.mark.parametrize("assign", ALL)
def test_places_lie_in_their_box_and_carry_its_quality(assign) -> None:
    assigned = assign(*inputs([[8, 8, 32, 40]], [1]))
    taken = places_of(assigned)
    assert taken
    places = inputs([[8, 8, 32, 40]], [1])[2].numpy()[taken]
    assert (places[:, :2] > 8).all()
    assert (places[:, :2] < [32, 40]).all()
    quality = assigned.quality.numpy()[0]
    assert quality[taken] == pytest.approx(1, abs=1e-5)  # every place says just that box
    assert quality.sum() == pytest.approx(len(taken), abs=1e-3)
    assert assigned.row.numpy().min() == -1


@pytest.mark.parametrize("assign", ALL)
def test_rows_that_fill_up_take_nothing(assign) -> None:
    alone = assign(*inputs([[8, 8, 32, 40]], [1]))
    for rest in ([-1.0] * 4, [0.0] * 4, [0.0, 0.0, 64.0, 64.0]):
        filled = assign(*inputs([[8, 8, 32, 40], rest], [1, -1]))
        for before, after in zip(alone, filled):
            np.testing.assert_array_equal(after.numpy(), before.numpy())


@pytest.mark.parametrize("assign", ALL)
def test_only_rows_that_fill_up_are_background(assign) -> None:
    given = inputs([[-1] * 4, [-1] * 4], [-1, -1])
    for found, expected in zip(assign(*given), background(given[0])):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_simota_takes_as_many_places_as_overlaps_add_up_to() -> None:
    for found, number in (([8, 8, 32, 40], 10), ([8, 8, 32, 16], 2), ([50, 50, 60, 60], 1)):
        assigned = simota(*inputs([[8, 8, 32, 40]], [1], found))
        assert len(places_of(assigned)) == number, found
        assert assigned.count.sum() == number
        assert assigned.weight.numpy().max() == 0.5  # the best score


def test_simota_takes_a_place_beyond_a_box_only_where_none_is_inside() -> None:
    given = inputs([[13, 13, 14, 14]], [0], [50, 50, 60, 60])  # between all centres
    (place,) = places_of(simota(*given))
    x, y, stride = given[2].numpy()[place]
    assert abs(x - 13.5) < 2.5 * stride
    assert abs(y - 13.5) < 2.5 * stride


def test_a_place_of_two_boxes_learns_the_one_that_fits() -> None:
    truth = [[8, 8, 40, 40], [10, 10, 42, 42]]
    given = inputs(truth, [0, 1], found=truth[1])
    assert places_of(task_aligned(*given, topk=1000), 0) == []
    for assign in (simota, task_aligned):
        assert len(places_of(assign(*given), 1)) >= 9


def test_atss_looks_at_no_more_places_than_a_stride_has() -> None:
    found = atss(*inputs([[0, 0, 64, 64]], [0]), topk=40)
    assert len(places_of(found)) > 0


def test_task_aligned_takes_its_number_of_places() -> None:
    given = inputs([[0, 0, 64, 64]], [0])
    for topk in (1, 5, 1000):
        assert len(places_of(task_aligned(*given, topk=topk))) == min(topk, 80)


def test_task_aligned_prefers_the_class_by_alpha_and_the_overlap_by_beta() -> None:
    scores, boxes, *rest = inputs([[0, 0, 64, 64]], [0])
    scores, boxes = scores.numpy(), boxes.numpy()
    scores[0, 0, 3], boxes[0, 5, 2] = 0.9, 63.9
    boxes[0, 3, 2] = 40
    given = paddle.to_tensor(scores), paddle.to_tensor(boxes), *rest
    assert places_of(task_aligned(*given, topk=1, alpha=6.0, beta=1.0)) == [3]
    assert 3 not in places_of(task_aligned(*given, topk=5, alpha=0.1, beta=6.0))


def test_atss_gives_a_box_too_small_for_its_candidates_the_best_place() -> None:
    """A box between the places: none lies inside, and the best anchor is one place's."""
    given = inputs([[13, 13, 15, 15], [30, 30, 62, 62], [-1, -1, -1, -1]], [0, 1, -1])
    plain, forced = (atss(*given, 9, 1.0, force) for force in (False, True))
    assert places_of(plain) == []
    (place,) = places_of(forced)
    assert given[2].numpy()[place].tolist() == [12, 12, 8]  # the only square over the box
    assert set(places_of(plain, 1)) <= set(places_of(forced, 1))
    assert forced.row.numpy().min() >= -1 and forced.row.numpy().max() == 1
    same = inputs([[13, 13, 15, 15], [13, 13, 15, 15]], [0, 1])  # both want it: neither gets it
    assert (atss(*same, 9, 1.0, True).row.numpy() == -1).all()


def test_simota_counts_entropy_and_overlap_without_varifocal_loss() -> None:
    """Worked out by hand: of two places, one is right in class, the other in its box."""
    truth = [[8.0, 8, 24, 24]]
    scores, boxes, places, *rest = inputs(truth, [1])
    first, second = 9, 10  # cells (12, 12) and (20, 12), both inside and central
    scores[0, :, :] = 0.01
    boxes[0, :] = paddle.to_tensor([50.0, 50, 60, 60])
    scores[0, 1, first], boxes[0, first] = 0.9, paddle.to_tensor([8.0, 8, 24, 16])  # IoU 1/2
    scores[0, 1, second], boxes[0, second] = 0.2, paddle.to_tensor([8.0, 8, 24, 24])  # IoU 1
    costs = {
        first: -np.log(0.9) - np.log(0.99) + 6 * np.log(2),
        second: -np.log(0.2) - np.log(0.99),
    }
    assert costs[second] < costs[first]
    given = (scores, boxes, places, *rest)
    assert places_of(simota(*given, use_vfl=False)) == [second]
    assert places_of(simota(*given, iou_weight=1.0, use_vfl=False)) == [first]
