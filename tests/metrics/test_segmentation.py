"""Scores of pixels: golden values, conventions, and their independence of batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.metrics.segmentation import MeanIoU


@pytest.fixture(scope="module")
def golden(segmentation: Path) -> dict[str, Any]:
    return json.loads((segmentation / "seg_metrics_lr_loss.json").read_text())


def scored(metric: MeanIoU, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    metric.update(paddle.to_tensor(found), {"mask": paddle.to_tensor(truth)})
    return metric.result()


def logits_of(classes: np.ndarray, count: int) -> np.ndarray:
    return np.moveaxis(np.eye(count, dtype=np.float32)[classes], -1, 1)


def test_golden_scores_with_an_absent_class(golden: dict[str, Any], segmentation: Path) -> None:
    case, arrays = golden["case1"], np.load(segmentation / "seg_metric_case1.npz")
    pred, label = (arrays[key][:, 0] for key in ("pred", "label"))
    metric = MeanIoU(5, absent="one")
    found = scored(metric, pred.astype(np.int32), label)
    expected = {"miou": case["miou"], "pixel_acc": case["acc"]}
    expected |= {"kappa": case["kappa"], "mdice": case["mdice"]}
    assert found == pytest.approx(expected, abs=1e-6)
    areas = metric.areas
    for own, key in ((areas.right, "intersect"), (areas.found, "pred"), (areas.truth, "label")):
        assert own.tolist() == case[key]
    for own, key in ((areas.precision, "precision"), (areas.recall, "recall")):
        np.testing.assert_allclose(own, case[key], atol=1e-6)
    np.testing.assert_allclose(areas.dice, case["class_dice"], atol=1e-6)
    np.testing.assert_allclose(areas.iou, [*case["class_iou"][:3], 0, 0], atol=1e-6)
    skipping = MeanIoU(5)
    mine = scored(skipping, pred.astype(np.int32), label)
    assert mine["miou"] == pytest.approx(np.mean(case["class_iou"][:3]), abs=1e-6)
    assert mine["mdice"] == pytest.approx(np.mean(case["class_dice"][:3]), abs=1e-6)
    assert next(iter(mine)) == "miou" and skipping.higher_is_better


def test_golden_scores_of_a_matrix(golden: dict[str, Any]) -> None:
    case = golden["case2"]
    matrix = np.array(case["confusion_rows_gt_cols_pred"])
    truth, found = (
        np.repeat(ids.reshape(-1), matrix.reshape(-1)) for ids in np.indices(matrix.shape)
    )
    for absent in ("skip", "one"):  # no class is absent
        metric = MeanIoU(3, absent=absent)
        result = scored(metric, logits_of(found[None, None], 3), truth[None, None])
        expected = {"miou": case["miou"], "pixel_acc": case["acc"]}
        expected |= {"kappa": case["kappa"], "mdice": case["mdice"]}
        assert result == pytest.approx(expected, abs=1e-6)
        np.testing.assert_array_equal(metric.matrix, matrix)
        for key in ("precision", "recall"):
            np.testing.assert_allclose(getattr(metric.areas, key), case[key], atol=1e-6)


def test_it_does_not_depend_on_batches_sizes_or_ranks() -> None:
    rng = np.random.RandomState(3)
    images = [rng.randint(0, 4, (2, *size)) for size in ((3, 4), (5, 2), (3, 4))]
    whole, parts = MeanIoU(4), [MeanIoU(4), MeanIoU(4)]
    for i, (found, truth) in enumerate(images):
        truth[0, 0] = 255
        scored(whole, logits_of(found[None], 4), truth[None].astype(np.uint8))
        scored(parts[i % 2], found[None].astype(np.int32), truth[None].astype(np.uint8))
    merged = MeanIoU(4)
    merged.merge(part.state() for part in parts)
    assert merged.result() == whole.result()
    again = MeanIoU(4)
    again.load_state(whole.state())
    assert again.result() == whole.result() and again.table() == whole.table()


def test_it_takes_the_outputs_of_networks_and_of_programs() -> None:
    found, truth = np.array([[[0, 1], [1, 1]]]), paddle.to_tensor([[[0, 1], [0, 255]]])
    logits = paddle.to_tensor(logits_of(found, 2))
    classes = paddle.to_tensor(found.astype(np.int32))
    results = []
    for outputs in (logits, {"logits": logits, "aux_0": -logits}, classes, {"classes": classes}):
        metric = MeanIoU(2)
        metric.update(outputs, {"mask": truth})
        results.append(metric.result())
    assert all(result == results[0] for result in results)
    assert results[0]["pixel_acc"] == pytest.approx(2 / 3)


def test_a_pixel_without_a_finite_answer_is_missed() -> None:
    logits = logits_of(np.array([[[0, 1, 1]]]), 2)
    logits[0, 0, 0, 2] = np.nan
    metric = MeanIoU(2)
    assert scored(metric, logits, np.array([[[0, 1, 1]]]))["pixel_acc"] == pytest.approx(2 / 3)
    assert metric.areas.iou.tolist() == [1, 0.5] and metric.matrix.sum() == 2


def test_kappa_is_a_number_where_there_is_one_class() -> None:
    ones = np.ones((1, 2, 2), np.int32)
    for absent, miou in (("skip", 1.0), ("one", 1.0)):
        assert scored(MeanIoU(3, absent=absent), ones, ones) == {
            "miou": miou,
            "pixel_acc": 1.0,
            "kappa": 0.0,
            "mdice": 1.0 if absent == "skip" else pytest.approx(1 / 3),
        }
    assert scored(MeanIoU(3), ones, np.full_like(ones, 255)) == {}


def test_its_report_names_the_convention(tmp_path: Path) -> None:
    metric = MeanIoU(3)
    scored(metric, np.array([[[0, 1, 1, 1]]], np.int32), np.array([[[0, 0, 1, 255]]]))
    table, picture, data = metric.report(tmp_path, ["road", "car", "sky"])
    assert '"road", "car", "sky"' in data.read_text() and metric.summary(["road", "car", "sky"])
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0].split() == [
        "class",
        "IoU",
        "precision",
        "recall",
        "Dice",
        *["share", "of", "pixels"],
    ]
    assert lines[1].split() == ["road", "0.5000", "1.0000", "0.5000", "0.6667", "66.6667%"]
    assert lines[3].split() == ["sky", "-", "-", "-", "-", "0.0000%"]
    assert lines[5].startswith("mIoU 0.5000: classes that occur neither") and "left out" in lines[5]
    assert lines[6].startswith("(0.6667 where") and "PaddleSeg" in lines[6]
    assert lines[7].startswith("2 of 3 classes occur; 3 pixels, 66.6667% right")
    assert picture.stat().st_size > 1000
    other = MeanIoU(3, absent="one")
    other.load_state(metric.state())
    assert "mIoU 0.6667" in other.table() and "(0.5000 where" in other.table()


def test_what_does_not_fit_is_named() -> None:
    found = np.zeros((1, 2, 2), np.int32)
    with pytest.raises(UserError, match="a mask has the class 9, but there are 3"):
        scored(MeanIoU(3), found, np.full((1, 2, 2), 9))
    with pytest.raises(UserError, match=r"the masks are \(1, 2, 3\), the network's answers"):
        scored(MeanIoU(3), found, np.zeros((1, 2, 3), int))
