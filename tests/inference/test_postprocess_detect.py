"""DetectionNMS: from boxes and scores to the objects of a photograph."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.postprocess.detect import DetectionNMS

BOXES = np.float32([[0, 0, 10, 10], [0, 0, 10, 9], [20, 4, 40, 30], [-5, 2, 200, 8]])
SCORES = np.float32([[0.6, 0.9, 0.1, 0.0], [0.0, 0.0, 0.7, 0.3]])  # (classes, places)
OUTPUTS = {"boxes": BOXES[None], "scores": SCORES[None]}


def test_the_objects_come_in_the_photographs_pixels() -> None:
    meta = Meta(60, 160, np.array([[2.0, 0, 0], [0, 1.0, 0]]))
    (result,) = DetectionNMS(label_list=["cat", "dog"])(OUTPUTS, [meta])
    assert result["class_ids"] == [0, 0, 1, 1]  # one of the two cats is suppressed
    assert result["boxes"] == [[0, 0, 20, 9], [40, 4, 80, 30], [40, 4, 80, 30], [0, 2, 160, 8]]
    assert result["scores"] == [0.9, 0.1, 0.7, 0.3]
    assert result["label_names"] == ["cat", "cat", "dog", "dog"]
    json.dumps(result)
    (plain,) = DetectionNMS(score_threshold=0.5)(OUTPUTS)
    assert plain["boxes"] == [[0, 0, 10, 9], [20, 4, 40, 30]] and plain["label_names"] == []


def test_the_surest_come_first_in_a_table() -> None:
    step = DetectionNMS()
    rows = step.rows(step(OUTPUTS)[0])
    assert [row[1] for row in rows] == [0.9, 0.7, 0.3, 0.1]
    assert all(len(row) == len(step.columns) for row in rows)
    (nothing,) = DetectionNMS(score_threshold=1.0)(OUTPUTS)
    assert nothing["boxes"] == [] and step.rows(nothing) == [("", "", "", "", "", "", "(nothing)")]


def test_limits_of_null_are_none() -> None:
    found = DetectionNMS(nms_top_k=None, keep_top_k=None, nms_threshold=1.0).objects(BOXES, SCORES)
    assert found.shape == (5, 6)
    assert len(DetectionNMS(keep_top_k=1).objects(BOXES, SCORES)) == 1


def test_a_picture_shows_what_is_sure_enough() -> None:
    step = DetectionNMS(draw_threshold=0.8)
    image = np.zeros((40, 60, 3), np.uint8)
    (result,) = step(OUTPUTS)
    picture = step.draw(image, result)
    assert not image.any() and picture[0, 5].any() and picture[8, 5].any()  # the cat's edges
    assert not picture[14:].any()
    both = DetectionNMS(draw_threshold=0.5).draw(image, result)
    assert both[29, 30].any() and not both[20, 30].any()
    (nothing,) = DetectionNMS(score_threshold=1.0)(OUTPUTS)
    assert not step.draw(image, nothing).any()


def test_what_it_cannot_read() -> None:
    with pytest.raises(UserError, match="the network gives logits; expected boxes and scores"):
        DetectionNMS()({"logits": SCORES})
    with pytest.raises(UserError, match="label_list names 1 classes, the network has 2"):
        DetectionNMS(label_list=["cat"])(OUTPUTS)
