"""Scores against hand-computed values and scikit-learn, and their independence of batches."""

from __future__ import annotations

import json

import cv2
import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.metrics.confusion import ConfusionMatrix, draw
from ppcls_lite.metrics.multilabel import (
    AccuracyScore,
    ATTRMetric,
    HammingDistance,
    MultiLabelMAP,
)
from ppcls_lite.metrics.topk import TopkAcc, TprAtFpr


def score(metric, logits, label, split: int | None = None) -> dict[str, float]:
    """The result over one batch, or over two when split."""
    parts = [slice(None)] if split is None else [slice(0, split), slice(split, None)]
    for part in parts:
        metric.update(paddle.to_tensor(logits[part]), {"label": paddle.to_tensor(label[part])})
    return metric.result()


@pytest.fixture(scope="module")
def classes():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 7, 50)
    label[label == 5] = 4  # class 5 never occurs
    logits = rng.standard_normal((50, 7)).astype(np.float32)
    logits[np.arange(50), label] += 1
    return logits, label


@pytest.fixture(scope="module")
def attributes():
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, (40, 6)).astype(np.float32)
    logits = (rng.standard_normal((40, 6)) + label - 0.5).astype(np.float32)
    return logits, label


ALL = [
    (TopkAcc, "classes"),
    (ConfusionMatrix, "classes"),
    (TprAtFpr, "two"),
    (AccuracyScore, "attributes"),
    (lambda: AccuracyScore("sample"), "attributes"),
    (HammingDistance, "attributes"),
    (ATTRMetric, "attributes"),
    (MultiLabelMAP, "attributes"),
    (lambda: MultiLabelMAP("11point"), "attributes"),
]


@pytest.fixture
def example(request, classes, attributes):
    two = (classes[0][:, :2], (classes[1] > 3).astype(np.int64))
    return {"classes": classes, "attributes": attributes, "two": two}[request.param]


@pytest.mark.parametrize(("make", "example"), ALL, indirect=["example"])
def test_every_metric_depends_on_neither_batches_nor_ranks_nor_a_restart(make, example):
    logits, label = example
    whole = score(make(), logits, label)
    assert whole == pytest.approx(score(make(), logits, label, split=17), rel=1e-12)

    first, second, merged = make(), make(), make()
    score(first, logits[:17], label[:17])
    score(second, logits[17:], label[17:])
    merged.merge([first.state(), second.state()])
    assert merged.result() == pytest.approx(whole, rel=1e-12)
    assert all(isinstance(v, np.ndarray) for v in merged.state().values())

    resumed = make()
    resumed.load_state(first.state())
    assert score(resumed, logits[17:], label[17:]) == pytest.approx(whole, rel=1e-12)

    resumed.reset()
    assert resumed.result() == {}


def test_metrics_keep_no_gradient(classes):
    logits = paddle.to_tensor(classes[0], stop_gradient=False)
    metric = TopkAcc()
    metric.update(logits * 2, {"label": paddle.to_tensor(classes[1])})
    assert all(value.stop_gradient for value in metric._seen.values())


# --- TopkAcc --------------------------------------------------------------------------------


def test_topk_equals_golden(fixtures):
    arrays = np.load(fixtures / "loss_inputs.npz")
    golden = json.loads((fixtures / "loss_values.json").read_text())["TopkAcc"]
    found = score(TopkAcc([1, 5]), arrays["student"], arrays["label"])
    assert found == pytest.approx(golden, abs=1e-6)
    assert list(found) == ["top1", "top5"]


def test_topk_by_hand_and_clamped():
    logits = np.array([[3, 2, 1], [1, 2, 3], [1, 3, 2]], np.float32)
    label = np.array([0, 1, 0])
    assert score(TopkAcc([1, 2, 5]), logits, label) == {"top1": 1 / 3, "top2": 2 / 3, "top5": 1.0}
    assert score(TopkAcc(2), logits, label[:, None]) == {"top2": 2 / 3}


def test_topk_of_equal_logits_is_chance_not_perfect():
    assert score(TopkAcc(1), np.zeros((4, 4), np.float32), np.arange(4))["top1"] == 0.25


def test_topk_takes_the_largest_entry_of_a_soft_label():
    logits = np.eye(3, dtype=np.float32)
    soft = np.array([[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1]], np.float32)
    assert score(TopkAcc([1]), logits, soft) == {"top1": 2 / 3}


# --- ConfusionMatrix ------------------------------------------------------------------------


def test_confusion_by_hand():
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1]]
    metric = ConfusionMatrix()
    found = score(metric, logits, np.array([0, 1, 1, 1, 2]))
    np.testing.assert_array_equal(metric.matrix, [[1, 0, 0], [1, 2, 0], [0, 1, 0]])
    assert found["macro_recall"] == pytest.approx(5 / 9)
    table = metric.table(["cat", "dog", "a long name"]).splitlines()
    assert len(table) == 4
    assert table[1].split() == ["cat", "0.5000", "1.0000", "0.6667", "1"]
    assert table[2].split() == ["dog", "0.6667", "0.6667", "0.6667", "3"]
    assert table[3].split() == [*["a", "long", "name"], "0.0000", "0.0000", "0.0000", "1"]


def test_confusion_equals_sklearn(classes):
    oracle = pytest.importorskip("sklearn.metrics")
    logits, label = classes
    metric = ConfusionMatrix()
    found = score(metric, logits, label)
    predicted = logits.argmax(axis=1)
    np.testing.assert_array_equal(
        metric.matrix, oracle.confusion_matrix(label, predicted, labels=range(7))
    )
    expected = oracle.precision_recall_fscore_support(
        label, predicted, average="macro", zero_division=0
    )
    assert list(found.values()) == pytest.approx(expected[:3])


def test_confusion_reports_a_table_and_a_picture(tmp_path):
    labels = np.array([0, 0, 2, 2, 1, 0, 0, 2])
    logits = np.eye(3, dtype=np.float32)[[0, 0, 2, 0, 1, 0, 2, 2]]
    for names in (["cat", "猫", "dog"], None):
        metric = ConfusionMatrix()
        score(metric, logits, labels)
        table, picture, _ = metric.report(tmp_path, names)
        assert (table.name, picture.name) == ("per_class.txt", "confusion_matrix.png")
        assert table.read_text(encoding="utf-8") == metric.table(names) + "\n"
        pixels = cv2.imread(str(picture))
        assert min(pixels.shape[:2]) > 200 and pixels.std() > 5
    draw(np.eye(100, dtype=int), tmp_path / "many.png")
    assert cv2.imread(str(tmp_path / "many.png")).std() > 5


# --- TprAtFpr -------------------------------------------------------------------------------


def logits_for(probabilities) -> np.ndarray:
    p = np.asarray(probabilities)
    return np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=1).astype(np.float32)


def test_tpr_at_fpr_by_hand():
    logits = logits_for([0.1, 0.2, 0.3, 0.65, 0.25, 0.6, 0.7, 0.8])
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = score(TprAtFpr(0.0), logits, label)
    assert found == pytest.approx({"tpr": 0.5, "fpr": 0.0, "threshold": 0.65}, abs=2e-4)
    found = score(TprAtFpr(0.25), logits, label)
    assert found == pytest.approx({"tpr": 0.75, "fpr": 0.25, "threshold": 0.3}, abs=2e-4)
    assert score(TprAtFpr(0.5), logits, label[:, None])["tpr"] == 1.0


def test_tpr_at_fpr_equals_a_plain_scan():
    rng = np.random.default_rng(4)
    label = rng.integers(0, 2, 200)
    logits = rng.standard_normal((200, 2)).astype(np.float32)
    logits[:, 1] += 2 * label
    s = paddle.nn.functional.softmax(paddle.to_tensor(logits))[:, 1].numpy().astype(float)
    rates = [
        ((s[label == 1] > i / 10000).mean(), (s[label == 0] > i / 10000).mean())
        for i in range(10000)
    ]
    for bound in (0.01, 0.1, 0.3):
        expected = max(tpr for tpr, fpr in rates if fpr <= bound)
        assert score(TprAtFpr(bound), logits, label)["tpr"] == pytest.approx(expected)


def test_tpr_at_fpr_needs_two_classes():
    with pytest.raises(UserError, match="no negative image"):
        score(TprAtFpr(), np.zeros((3, 2), np.float32), np.ones(3, np.int64))
    with pytest.raises(UserError, match="the network has 3 outputs"):
        score(TprAtFpr(), np.zeros((3, 3), np.float32), np.ones(3, np.int64))


# --- several attributes ---------------------------------------------------------------------


def test_accuracy_and_hamming_equal_sklearn(attributes):
    oracle = pytest.importorskip("sklearn.metrics")
    logits, label = attributes
    predicted = logits > 0
    hamming = oracle.hamming_loss(label, predicted)
    assert score(HammingDistance(), logits, label) == {"HammingDistance": pytest.approx(hamming)}
    found = score(AccuracyScore(), logits, label)
    assert found == {"AccuracyScore": pytest.approx(1 - hamming)}
    exact = oracle.accuracy_score(label, predicted)
    assert score(AccuracyScore("sample"), logits, label)["AccuracyScore"] == pytest.approx(exact)
    assert not HammingDistance.higher_is_better
    assert AccuracyScore.higher_is_better


def test_unknown_attributes_do_not_count():
    logits = np.array([[1, 1, -1], [1, -1, 1]], np.float32)
    label = np.array([[1, -1, 0], [-1, 1, -1]], np.float32)
    assert score(AccuracyScore(), logits, label)["AccuracyScore"] == pytest.approx(2 / 3)
    assert score(AccuracyScore("sample"), logits, label)["AccuracyScore"] == 0.5
    assert score(HammingDistance(), logits, label)["HammingDistance"] == pytest.approx(1 / 3)
    found = score(ATTRMetric(), logits, label)
    assert found["label_pos_recall"] == pytest.approx(1 / 3)  # attributes 0, 1, 2: 1, 0, none
    assert found["ins_precision"] == 0.5


def test_label_rows_of_frequencies_are_left_aside(attributes):
    logits, label = attributes
    stacked = np.stack([label, np.full_like(label, 0.3)], axis=1)
    for metric in (AccuracyScore, HammingDistance, ATTRMetric, MultiLabelMAP):
        assert score(metric(), logits, stacked) == score(metric(), logits, label)


def test_attr_metric_by_hand():
    logits = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    label = np.array([[1, 0], [1, 1], [1, 1], [0, 0]], np.float32)
    found = score(ATTRMetric(), logits, label)
    # attribute 0: 2 of 3 positives, 1 of 1 negatives; attribute 1: 1 of 2 and 1 of 2
    assert list(found) == [
        *("mA", "label_f1", "label_pos_recall", "label_neg_recall"),
        *("ins_f1", "ins_accuracy", "ins_precision", "ins_recall"),
    ]
    assert found["mA"] == pytest.approx(((2 / 3 + 1) / 2 + 0.5) / 2)
    assert found["label_pos_recall"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["label_neg_recall"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["label_f1"] == pytest.approx((0.8 + 0.5) / 2)
    # images: found 2 of which 1 right of 1; 1, 1 of 2; 1, 1 of 2; none
    assert found["ins_precision"] == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert found["ins_recall"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert found["ins_accuracy"] == pytest.approx((0.5 + 0.5 + 0.5 + 0) / 4)
    assert found["ins_f1"] == pytest.approx(2 * 0.625 * 0.5 / 1.125)


def test_map_equals_sklearn_also_with_equal_scores(attributes):
    oracle = pytest.importorskip("sklearn.metrics")
    logits, label = attributes
    label = label.copy()
    label[:, 5] = 0  # never occurs: left out of the mean
    for x in (logits, logits.round()):
        s = paddle.nn.functional.sigmoid(paddle.to_tensor(x)).numpy()
        expected = np.mean([oracle.average_precision_score(label[:, c], s[:, c]) for c in range(5)])
        assert score(MultiLabelMAP(), x, label)["MultiLabelMAP"] == pytest.approx(expected)


def test_map_11point_by_hand():
    logits = np.array([[4], [3], [2], [1]], np.float32)
    label = np.array([[1], [0], [1], [0]], np.float32)
    # precision 1 up to recall 0.5 (6 points), then 2/3 up to recall 1 (5 points)
    found = score(MultiLabelMAP("11point"), logits, label)
    assert found["MultiLabelMAP"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    integral = score(MultiLabelMAP(), logits, label)
    assert integral["MultiLabelMAP"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize(("make", "example"), ALL, indirect=["example"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_never_better_than_any_answer(make, example, value):
    logits, label = example
    broken = logits.copy()
    broken[::3] = value
    right = (
        np.where(label == 1, 9.0, -9.0) if label.ndim == 2 else 9.0 * np.eye(logits.shape[1])[label]
    )
    wrong, best = logits.copy(), logits.copy()
    wrong[::3], best[::3] = -right[::3], right[::3]
    found, lower, upper = (score(make(), x, label) for x in (broken, wrong, best))
    name = "macro_recall" if "macro_recall" in found else next(iter(found))
    found, lower, upper = found[name], lower[name], upper[name]
    if make().higher_is_better:
        assert found <= lower + 1e-9 < upper
    else:
        assert found >= lower - 1e-9 > upper


def test_images_without_label_are_no_false_alarms():
    logits = np.array([[0, 3], [3, 0], [0, 3], [3, 0]], np.float32)
    found = score(TprAtFpr(), logits, np.array([1, 0, -1, -1]))
    assert (found["tpr"], found["fpr"]) == (1.0, 0.0)


ATTRIBUTE_METRICS = [AccuracyScore, lambda: AccuracyScore("sample"), HammingDistance, ATTRMetric]


@pytest.mark.parametrize("make", [*ATTRIBUTE_METRICS, MultiLabelMAP])
def test_images_and_attributes_of_which_nothing_is_known_change_no_score(make, attributes):
    logits, label = attributes
    more = np.concatenate([logits, logits[:5]]), np.concatenate([label, -np.ones_like(label[:5])])
    wider = [
        np.concatenate([x, y], axis=1) for x, y in zip(more, (more[0], -np.ones_like(more[1])))
    ]
    assert score(make(), *wider) == pytest.approx(score(make(), logits, label), rel=1e-12)


@pytest.mark.parametrize("make", ATTRIBUTE_METRICS)
def test_no_score_where_nothing_is_known(make, attributes):
    assert score(make(), attributes[0], -np.ones_like(attributes[1])) == {}


def test_attributes_may_be_predicted_from_logits_as_paddleclas_does():
    logits = np.array([[0.2, 0.7], [0.6, -1.0]], np.float32)  # sigmoids: 0.55, 0.67; 0.65, 0.27
    label = np.array([[0, 1], [1, 0]], np.float32)
    assert score(ATTRMetric(from_logits=True), logits, label)["mA"] == 1.0
    assert score(ATTRMetric(), logits, label)["mA"] == 0.75  # 0.55 is a false alarm
