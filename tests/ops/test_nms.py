"""Suppression: the rows of PaddleDetection's MultiClassNMS, and its ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.ops.nms import cut_off, merged_slices, multiclass_nms

GOLDEN = Path(__file__).parents[1] / "fixtures" / "detection" / "parts.json"


@pytest.mark.parametrize("case", ["nms", "nms_case2"])
def test_rows_and_their_order_are_paddle_detections(case: str) -> None:
    known = json.loads(GOLDEN.read_text(encoding="utf-8"))[case]
    names = ("score_threshold", "nms_threshold", "nms_top_k", "keep_top_k")
    boxes, scores = (np.array(known[key], np.float32) for key in ("boxes", "scores"))
    rows = multiclass_nms(boxes, scores, **{name: known[name] for name in names})
    np.testing.assert_array_equal(rows, np.array(known["out"], np.float32))


BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [20, 0, 30, 10], [0, 0, 10, 10]], np.float32)
SCORES = np.array([[0.5, 0.9, 0.2, 0.5], [0.5, 0.1, 0.6, 0.0]], np.float32)


def test_a_threshold_is_not_reached_by_what_equals_it() -> None:
    rows = multiclass_nms(BOXES, SCORES, 0.5, 0.6)  # the IoU of the first two boxes is 0.6
    assert rows[:, :2].tolist() == [[0, np.float32(0.9)], [1, np.float32(0.6)]]
    rows = multiclass_nms(BOXES, SCORES, 0.4, 0.6)
    assert rows[:, 0].tolist() == [0, 0, 1, 1]


def test_of_equal_scores_the_first_place_stays() -> None:
    rows = multiclass_nms(BOXES + np.arange(4, dtype=np.float32)[:, None] / 100, SCORES, 0.4, 0.6)
    assert rows[1, 2] == 0


def test_the_most_boxes_of_a_class_and_of_an_image() -> None:
    assert len(multiclass_nms(BOXES, SCORES, 0.05, 0.99, nms_top_k=1)) == 2
    rows = multiclass_nms(BOXES, SCORES, 0.05, 0.99, keep_top_k=2)
    assert rows[:, 1].tolist() == [np.float32(0.9), np.float32(0.6)]
    everything = multiclass_nms(BOXES, SCORES, 0.05, 0.99, nms_top_k=-1, keep_top_k=-1)
    assert len(everything) == 6  # of two equal boxes of a class one


def test_boxes_of_other_classes_count_where_they_are_asked_to() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10]], np.float32)
    scores = np.array([[0.9, 0.0], [0.0, 0.8]], np.float32)
    assert len(multiclass_nms(boxes, scores, 0.1, 0.5)) == 2
    assert len(multiclass_nms(boxes, scores, 0.1, 0.5, across_classes=True)) == 1


@pytest.mark.parametrize("locations", [0, 3])
def test_nothing_found_is_no_rows(locations: int) -> None:
    boxes, scores = np.zeros((locations, 4), np.float32), np.zeros((2, locations), np.float32)
    rows = multiclass_nms(boxes, scores, 0.025, 0.6)
    assert rows.shape == (0, 6)
    assert rows.dtype == np.float32


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (90, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (90, 2))], axis=1)
    scores = rng.uniform(0, 1, (3, 90)).astype(np.float32)
    limits = {"nms_top_k": 70, "keep_top_k": 25}
    for across in (False, True):
        whole = multiclass_nms(boxes, scores, 0.1, 0.4, **limits, across_classes=across)
        monkeypatch.setattr("ppcls_lite.ops.nms._BLOCK", 7)
        parts = multiclass_nms(boxes, scores, 0.1, 0.4, **limits, across_classes=across)
        monkeypatch.undo()
        np.testing.assert_array_equal(whole, parts)
        assert 5 < len(whole) <= 25


def test_pieces_go_where_their_object_is() -> None:
    rows = np.array(
        [
            [1, 0.6, 0, 0, 100, 40],  # an object, in a part that shows all of it
            [1, 0.9, 0, 0, 60, 40],  # its pieces, in two others: one is surer than the object
            [1, 0.5, 50, 0, 100, 40],
            [0, 0.8, 0, 0, 60, 40],  # of another class
            [1, 0.3, 1, 0, 100, 41],  # the same object again
            [1, 0.2, 200, 0, 260, 40],  # two pieces of an object that is whole nowhere
            [1, 0.1, 220, 0, 270, 40],
        ]
    )
    unsure = np.array([False, True, True, True, False, True, True])
    assert merged_slices(rows, unsure, 0.6).tolist() == [3, 0, 5]
    assert merged_slices(rows, unsure, 0.6, 2).tolist() == [3, 0]
    assert merged_slices(rows, unsure, 0.6, across_classes=True).tolist() == [0, 5]
    assert merged_slices(rows, np.ones(7, bool), 0.6).tolist() == [3, 1, 2, 5]
    many = np.tile(rows, (300, 1))  # more than are compared at once
    assert merged_slices(many, np.tile(unsure, 300), 0.6).tolist() == [3, 0, 5]
    assert merged_slices(rows[:0], unsure[:0], 0.6).tolist() == []


def test_only_inner_edges_cut_objects_off() -> None:
    boxes = np.array([[0, 20, 30, 40], [60, 20, 99, 40], [40, 40, 50, 49], [10, 1, 30, 30]])
    found = [
        cut_off(boxes, window, (50, 300)).tolist()
        for window in ((0, 0, 100, 50), (100, 0, 200, 50), (200, 0, 300, 50))
    ]
    assert found == [[False, True, False, False], [True, True, False, False], [True] + [False] * 3]
    assert cut_off(boxes, (0, 10, 100, 60), (90, 100)).tolist() == [False, False, True, True]
