"""The answer for each image: tables, mistakes, and what an evaluation says of itself."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.postprocess.classify import MultiLabelThreshOutput
from ppcls_lite.metrics.answers import ClassAnswers
from ppcls_lite.metrics.answers_attributes import AttributeAnswers
from ppcls_lite.metrics.answers_masks import MaskAnswers
from ppcls_lite.metrics.base import Metric
from ppcls_lite.metrics.certainty import Wish
from ppcls_lite.metrics.segmentation import MeanIoU
from ppcls_lite.metrics.topk import TopkAcc
from ppcls_lite.report.facts import CALIBRATION, CLASSES, IMAGES, read_facts

LOGITS = np.array(
    [[9, 0, 0], [0, 1, 0], [0, 5, 0], [0, 0, 1], [np.nan, 0, 0], [0, 0, 2]], np.float32
)
LABELS = [0, 0, 2, 2, 1, -1]
FILES = [f"photos/{n}.jpg" for n in range(6)]


def batch(**arrays: np.ndarray) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def answers() -> ClassAnswers:
    """Six images in two batches that come in another order."""
    metric = ClassAnswers(shown=2)
    for chosen in ([3, 4, 5], [0, 1, 2]):
        known = batch(label=np.array(LABELS)[chosen], index=np.array(chosen))
        metric.update(paddle.to_tensor(LOGITS[chosen]), known)
    metric.paths = FILES
    return metric


def test_the_table_has_a_row_for_each_image_in_order(answers: ClassAnswers, tmp_path: Path) -> None:
    answers.report(tmp_path, ["ant", "bee", "cat"])
    table = rows(tmp_path)
    assert [row["file"] for row in table] == FILES
    assert [row["truth"] for row in table] == ["ant", "ant", "cat", "cat", "bee", ""]
    assert [row["answer"] for row in table] == ["ant", "bee", "bee", "cat", "(no number)", "cat"]
    assert [row["right"] for row in table] == ["1", "0", "0", "1", "0", ""]
    sure = np.exp(5) / (np.exp(5) + 2)
    assert float(table[2]["score"]) == pytest.approx(sure, abs=1e-5)
    assert float(table[2]["loss"]) == pytest.approx(-np.log((1 - sure) / 2), abs=1e-4)
    assert table[2]["scores"].startswith(f"bee {sure:.4f}; ")


def test_certain_mistakes_and_high_losses_are_named(answers: ClassAnswers, tmp_path: Path) -> None:
    answers.report(tmp_path, ["ant", "bee", "cat"])
    certain, hard = read_facts(tmp_path / IMAGES)
    assert [file for file, _ in certain["images"]] == ["photos/2.jpg", "photos/1.jpg"]
    assert "bee 0.99, is cat" in certain["images"][0][1]
    assert [file for file, _ in hard["images"]] == [
        "photos/4.jpg",
        "photos/2.jpg",
    ]  # no number first


def test_calibration_counts_the_labelled_images(answers: ClassAnswers, tmp_path: Path) -> None:
    answers.report(tmp_path)
    facts = read_facts(tmp_path / CALIBRATION)
    assert (facts["images"], facts["right"]) == (5, 2)
    assert facts["fitted"]["loss"] < facts["as_is"]["loss"]
    assert facts["cuts"][-1]["coverage"] == 1 and facts["cuts"][-1]["precision"] == 0.4
    assert (tmp_path / "reliability.png").is_file()
    assert "temperature" in answers.summary()[0]


def test_a_wish_becomes_arguments_and_their_price(answers: ClassAnswers) -> None:
    found = answers.certainty(Wish(reject=("precision", 0.99)))
    assert found is not None and {*found.arguments} == {"reject_below"}
    assert (found.facts["precision"], found.facts["coverage"]) == (1.0, 0.2)
    assert found.facts["precision_interval"] == pytest.approx([0.2065, 1.0], abs=1e-4)
    both = answers.certainty(Wish(calibrate=True, reject=("coverage", 0.5)))
    assert both is not None and both.facts["coverage"] == 0.8  # two are alike
    assert both.arguments["temperature"] == pytest.approx(both.facts["temperature"], abs=1e-4)


def test_what_no_threshold_reaches_is_said() -> None:
    metric = ClassAnswers()
    metric.update(paddle.to_tensor(LOGITS[[1, 2]]), batch(label=np.array([0, 1])))
    metric.update(paddle.to_tensor(LOGITS[[0]]), batch(label=np.array([1])))
    with pytest.raises(UserError, match=r"precision of 0.9 on the 3 images.* is 0.5"):
        metric.certainty(Wish(reject=("precision", 0.9)))
    right = ClassAnswers()
    right.update(paddle.to_tensor(LOGITS[[0]]), batch(label=np.array([0])))
    with pytest.raises(UserError, match="none of the answers"):
        right.certainty(Wish(calibrate=True))


def test_top_k_says_how_sure_it_is() -> None:
    metric = TopkAcc([1, 2])
    metric.update(paddle.to_tensor(LOGITS), batch(label=np.array(LABELS)))
    found = metric.intervals()
    assert metric.result()["top1"] == 0.4
    assert found["top1"].low == pytest.approx(0.1176, abs=1e-4)  # Wilson, 2 of 5
    assert found["top2"].low < metric.result()["top2"] < found["top2"].high


def test_attributes(tmp_path: Path) -> None:
    metric = AttributeAnswers(shown=5)
    logits = np.array([[4, -4], [4, 4], [-1, -2]], np.float32)
    label = np.array([[1, 0], [1, 0], [1, -1]], np.float32)
    metric.update(paddle.to_tensor(logits), batch(label=label, index=np.arange(3)))
    metric.paths = FILES
    metric.report(tmp_path, ["red", "round"])
    assert [(r["answer"], r["right"]) for r in rows(tmp_path)] == [
        ("red", "1"), ("red; round", "0"), ("", "0")
    ]  # fmt: skip
    scores = read_facts(tmp_path / CLASSES)["scores"]
    assert scores[0] == pytest.approx([1, 2 / 3, 0.8, 3], abs=1e-5) and scores[1][:2] == [0, None]
    (group,) = read_facts(tmp_path / IMAGES)
    assert [file for file, _ in group["images"]] == ["photos/1.jpg", "photos/2.jpg"]


def test_each_attribute_gets_the_limit_from_which_its_answers_are_right() -> None:
    """Right from a certainty of 0.88 on; always; never; without a label."""
    metric = AttributeAnswers()
    logits = np.array([[2, 3, -3, 0], [-2, -3, 2, 0], [1, 2, -1, 0], [0.5, -1, 1, 0]], np.float32)
    label = np.array([[1, 1, 1, -1], [0, 0, 0, -1], [0, 1, 1, -1], [1, 0, 0, -1]], np.float32)
    metric.update(paddle.to_tensor(logits), batch(label=label, index=np.arange(4)))
    found = metric.certainty(Wish(reject=("precision", 0.99)))
    assert found is not None and found.arguments["threshold"] == 0.5
    first, second, third, fourth = found.arguments["reject_below"]
    low, high = 1 / (1 + np.exp([-1, -2]))
    assert low < first < high and second < 0.73 and third == fourth == 1
    assert found.facts["images"] == 4 and found.facts["precision"] == 1
    assert found.facts["coverage"] == 6 / 12
    answers = MultiLabelThreshOutput(**found.arguments)({"logits": 1 / (1 + np.exp(-logits))})
    assert [answer["class_ids"] for answer in answers] == [[0, 1], [], [1], []]
    assert [answer["unsure"]["class_ids"] for answer in answers] == [
        [2, 3], [2, 3], [0, 2, 3], [0, 2, 3]
    ]  # fmt: skip
    wide = metric.certainty(Wish(reject=("coverage", 1.0)))
    assert wide is not None and wide.facts["coverage"] == 1
    assert metric.certainty(Wish(calibrate=True)) is None
    metric.reset()
    metric.update(paddle.to_tensor(-logits[:, :2]), batch(label=label[:, :2], index=np.arange(4)))
    with pytest.raises(UserError, match=r"precision of 0.99 .* is 0.3333"):
        metric.certainty(Wish(reject=("precision", 0.99)))


def test_masks_have_scores_and_intervals_that_hold_the_mean(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (30, 6, 6)).astype(np.uint8)
    found = np.where(rng.random(truth.shape) < rng.random((30, 1, 1)), truth, 0).astype(np.int32)
    truth[0, 0] = 255
    metrics: list[Metric] = [MaskAnswers(3), MeanIoU(3)]
    for metric in metrics:
        metric.update(paddle.to_tensor(found), batch(mask=truth, index=np.arange(30)))
    answers, means = metrics
    scores, intervals = means.result(), answers.intervals()
    for name in ("miou", "pixel_acc"):
        low, high, _ = intervals[name]
        assert low < scores[name] < high and 0.02 < high - low < 0.4
    answers.report(tmp_path, ["sky", "road", "tree"])
    table = rows(tmp_path)
    first = truth[0] != 255
    assert float(table[0]["pixel_acc"]) == pytest.approx(
        (truth == found)[0][first].mean(), abs=1e-5
    )
    missed = [((truth[1] == k) & (found[1] != k)).sum() for k in range(3)]
    assert table[1]["worst_class"] == ["sky", "road", "tree"][int(np.argmax(missed))]
