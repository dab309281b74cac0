"""FocalLoss, and weights of the classes by how often they come."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.losses.cross_entropy import BinaryCELoss, CELoss, FocalLoss

LOGITS = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0], [5, 5, 5]], np.float32)
LABELS = np.array([0, 2, 1, -1], np.int64)
BATCH = {"label": paddle.to_tensor(LABELS), "image": paddle.zeros([4, 1])}


def by_hand(gamma: float, weights: np.ndarray) -> float:
    p = np.exp(LOGITS[:3]) / np.exp(LOGITS[:3]).sum(axis=1, keepdims=True)
    right, w = p[np.arange(3), LABELS[:3]], weights[LABELS[:3]]
    return float((w * -((1 - right) ** gamma) * np.log(right)).sum() / w.sum())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_formula(gamma: float) -> None:
    value = FocalLoss(weight=3.0, gamma=gamma)(paddle.to_tensor(LOGITS), BATCH)["FocalLoss"]
    assert float(value) == pytest.approx(3 * by_hand(gamma, np.ones(3)), rel=1e-5)
    weighed = FocalLoss(gamma=gamma, class_weight=[1.0, 2.0, 0.5])
    value = weighed(paddle.to_tensor(LOGITS), BATCH)["FocalLoss"]
    assert float(value) == pytest.approx(by_hand(gamma, np.array([1, 2, 0.5])), rel=1e-5)


def test_gamma_0_is_cross_entropy_and_certainty_has_a_gradient() -> None:
    logits = paddle.to_tensor(LOGITS)
    plain, focal = CELoss(epsilon=0.1), FocalLoss(gamma=0.0, epsilon=0.1)
    expected = float(plain(logits, BATCH)["CELoss"])
    assert float(focal(logits, BATCH)["FocalLoss"]) == pytest.approx(expected, rel=1e-5)
    sure = paddle.to_tensor([[100.0, -100.0, -100.0]], stop_gradient=False)
    FocalLoss(gamma=0.5)(sure, {"label": paddle.to_tensor([0])})["FocalLoss"].backward()
    assert np.isfinite(sure.grad.numpy()).all()


def test_weights_by_frequency() -> None:
    labels = np.array([0] * 6 + [1] * 2 + [3] * 4 + [-1] * 5)
    loss = CELoss(class_weight="auto", class_num=5)
    loss.see(SimpleNamespace(labels=labels))
    assert loss.class_weight.numpy() == pytest.approx([2 / 3, 2, 0, 1, 0])
    assert loss.divides_by == "weights"
    for other in (None, np.zeros((4, 3), np.float32)):
        with pytest.raises(UserError, match="auto needs a data set with one class for each image"):
            loss.see(SimpleNamespace(labels=other))


def test_binary_cross_entropy_of_mixed_labels() -> None:
    logits = paddle.to_tensor(LOGITS)
    soft = np.array([[0.7, 0.3, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    batch = {"label": paddle.to_tensor(soft), "image": BATCH["image"][:3]}

    def by_hand(target: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-LOGITS[:3].astype("float64")))
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())

    for arguments, target in (
        ({}, soft[:3]),
        ({"epsilon": 0.3}, 0.7 * soft[:3] + 0.1),
        ({"target_threshold": 0.2}, (soft[:3] > 0.2).astype("f4")),
    ):
        value = BinaryCELoss(weight=2.0, **arguments)(logits[:3], batch)["BinaryCELoss"]
        assert float(value) == pytest.approx(2 * by_hand(target), rel=1e-5)
    hard = BinaryCELoss()(logits, BATCH)["BinaryCELoss"]
    assert float(hard) == pytest.approx(by_hand(np.eye(3)[LABELS[:3]]), rel=1e-5)
