"""Dice and Lovász losses against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.losses.segmentation import SegCELoss
from ppcls_lite.losses.segmentation_overlap import DiceLoss, LovaszHingeLoss, LovaszSoftmaxLoss

RNG = np.random.RandomState(7)
LOGITS = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
MASK = RNG.randint(0, 2, (2, 4, 5)).astype(np.uint8)  # class 2 is absent
MASK[1, 2:] = 255
BATCH = {"image": paddle.zeros([2, 3, 1, 1]), "mask": paddle.to_tensor(MASK)}


def value(loss: paddle.nn.Layer, logits: np.ndarray = LOGITS) -> float:
    (term,) = loss(paddle.to_tensor(logits), BATCH).values()
    return float(term)


def chances() -> np.ndarray:
    e = np.exp(LOGITS.astype(np.float64))
    return e / e.sum(axis=1, keepdims=True)


def test_dice_by_hand() -> None:
    p, valid = chances(), MASK != 255
    costs = np.zeros((2, 3))
    for image, number in itertools.product(range(2), range(3)):
        y, q = (MASK[image] == number)[valid[image]], p[image, number][valid[image]]
        costs[image, number] = 1 - (2 * (q * y).sum() + 0.5) / (q.sum() + y.sum() + 0.5)
    assert value(DiceLoss(smooth=0.5)) == pytest.approx(costs.mean(), rel=1e-6)
    weighted = (costs.mean(axis=0) * [1, 2, 0]).mean()
    found = value(DiceLoss(smooth=0.5, class_weight=[1.0, 2.0, 0.0]))
    assert found == pytest.approx(weighted, rel=1e-6)


def test_no_loss_writes_into_the_masks() -> None:
    before = value(SegCELoss())
    for loss in (DiceLoss(), LovaszSoftmaxLoss(), SegCELoss(top_k_percent_pixels=0.5)):
        value(loss)
        np.testing.assert_array_equal(BATCH["mask"], MASK)
    assert value(SegCELoss()) == before


def jaccard_loss(errors: np.ndarray, own: np.ndarray) -> float:
    """The Lovász extension by its definition: the sum over the sorted errors."""
    order = np.argsort(-errors, kind="stable")

    def lost(count: int) -> float:
        wrong = np.zeros(len(own), bool)
        wrong[order[:count]] = True
        shared, joint = (own & ~wrong).sum(), (own | wrong).sum()
        return 1 - shared / joint if joint else 0.0

    steps = [lost(i + 1) - lost(i) for i in range(len(own))]
    return float((errors[order] * steps).sum())


def test_lovasz_softmax_by_definition() -> None:
    p, valid = chances(), MASK != 255
    costs = []
    for number in range(3):
        own = (number == MASK)[valid]
        costs.append(jaccard_loss(np.abs(own - p[:, number][valid]), own))
    assert value(LovaszSoftmaxLoss()) == pytest.approx(np.mean(costs[:2]), rel=1e-5)
    assert value(LovaszSoftmaxLoss(classes="all")) == pytest.approx(np.mean(costs), rel=1e-5)
    assert value(LovaszSoftmaxLoss(classes=[1])) == pytest.approx(costs[1], rel=1e-5)
    with pytest.raises(UserError, match="the network gives 3, from 0 on; found 3"):
        value(LovaszSoftmaxLoss(classes=[1, 3]))


def test_a_perfect_answer_costs_nothing() -> None:
    sure = np.stack([number == MASK for number in range(3)], axis=1) * 60 - 30.0
    for loss in (LovaszSoftmaxLoss(), DiceLoss(), SegCELoss()):
        assert value(loss, sure.astype(np.float32)) == pytest.approx(0, abs=1e-6)


def test_lovasz_hinge_by_definition() -> None:
    valid = MASK != 255
    score = (LOGITS[:, 1] - LOGITS[:, 0])[valid].astype(np.float64)
    own = MASK[valid] == 1
    expected = jaccard_loss(np.maximum(0, 1 - score * (2 * own - 1)), own)
    assert value(LovaszHingeLoss(), LOGITS[:, :2]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="expected 2 classes, found 3"):
        value(LovaszHingeLoss())


def test_the_ranked_losses_have_a_gradient_that_lowers_them() -> None:
    for loss, count in ((LovaszSoftmaxLoss(), 3), (LovaszHingeLoss(), 2), (DiceLoss(), 3)):
        logits = paddle.to_tensor(LOGITS[:, :count], stop_gradient=False)
        (term,) = loss(logits, BATCH).values()
        term.backward()
        lower = (logits - 0.05 * logits.grad / logits.grad.abs().max()).numpy()
        assert value(loss, lower) < float(term)
