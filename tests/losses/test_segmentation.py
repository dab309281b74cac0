"""Losses of pixels: golden values, values by hand, and those of parts of a batch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.engine.accumulate import shares
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import CombinedLoss, Loss
from ppcls_lite.losses.segmentation import (
    MultiClassFocalLoss,
    OhemCrossEntropyLoss,
    SegCELoss,
)

WEIGHTS = [0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.fixture(scope="module")
def logits(dense_input: Callable[..., np.ndarray]) -> np.ndarray:
    return dense_input("ce_logits", (2, 5, 6, 7), 2.0)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(b"label:ce"))
    mask = random.randint(0, 5, (2, 6, 7))
    mask[0, 0] = 255
    return mask.astype(np.uint8)


def batch_of(mask: np.ndarray) -> dict[str, paddle.Tensor]:
    return {"image": paddle.zeros([len(mask), 3, 1, 1]), "mask": paddle.to_tensor(mask)}


def value(loss: Loss, logits: np.ndarray, mask: np.ndarray) -> float:
    (term,) = loss(paddle.to_tensor(logits), batch_of(mask)).values()
    return float(term)


def entropies(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """-log p of each pixel's class (N, H, W) float64, 0 where none counts."""
    z = logits.astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    ids = np.where(mask == 255, 0, mask).astype(int)
    found = -np.take_along_axis(log_p, ids[:, None], 1)[:, 0]
    return np.where(mask == 255, 0, found)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("avg_non_ignore", {}),
        ("avg_all", {"avg_non_ignore": False}),
        ("weighted", {"class_weight": WEIGHTS}),
        ("topk20", {"top_k_percent_pixels": 0.2}),
    ],
)
def test_cross_entropy_equals_golden(
    key: str, options: dict, logits: np.ndarray, mask: np.ndarray, segmentation: Path
) -> None:
    golden = json.loads((segmentation / "seg_metrics_lr_loss.json").read_text())["ce"]
    assert value(SegCELoss(**options), logits, mask) == pytest.approx(golden[key], abs=1e-6)
    assert value(SegCELoss(weight=0.5, **options), logits, mask) == pytest.approx(
        golden[key] / 2, abs=1e-6
    )


@pytest.mark.parametrize(
    "node",
    [
        "SegCELoss",
        {"SegCELoss": {"class_weight": WEIGHTS}},
        {"SegCELoss": {"avg_non_ignore": False}},
        {"SegCELoss": {"top_k_percent_pixels": 0.3}},
        {"OhemCrossEntropyLoss": {"min_kept": 3}},
        "MultiClassFocalLoss",
        "DiceLoss",
        "LovaszSoftmaxLoss",
    ],
    ids=str,
)
def test_nothing_is_learnt_where_nothing_counts(
    node: object, logits: np.ndarray, mask: np.ndarray
) -> None:
    loss = build(node, "loss")
    scores = paddle.to_tensor(logits, stop_gradient=False)
    empty = np.full_like(mask, 255)
    (term,) = loss(scores, batch_of(empty)).values()
    term.backward()
    assert float(term) == 0 and not scores.grad.numpy().any()
    (term,) = loss(scores, batch_of(mask)).values()
    term.backward()
    ignored = scores.grad.numpy()[0, :, 0]
    assert float(term) > 0 and not ignored.any() and np.isfinite(scores.grad.numpy()).all()
    assert np.abs(scores.grad.numpy()).sum() > 0


def test_hard_pixels_are_chosen_by_the_probability_of_their_class(
    logits: np.ndarray, mask: np.ndarray
) -> None:
    entropy = entropies(logits, mask)
    sure, valid = np.exp(-entropy), mask != 255
    for thresh, min_kept in ((0.7, 5), (0.1, 40), (0.7, 1000), (1.0, 1)):
        kept = valid
        if min_kept < valid.sum():
            kept = valid & (sure < max(thresh, np.sort(sure[valid])[min_kept - 1]))
        assert 0 < kept.sum() <= valid.sum()
        expected = (entropy * kept).mean() / (kept.mean() + 1e-5)
        loss = OhemCrossEntropyLoss(thresh=thresh, min_kept=min_kept)
        assert value(loss, logits, mask) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_by_hand(logits: np.ndarray, mask: np.ndarray) -> None:
    entropy = entropies(logits, mask)
    cost = 0.25 * (1 - np.exp(-entropy)) ** 3 * entropy
    expected = cost.sum() / (mask != 255).sum()
    loss = MultiClassFocalLoss(alpha=0.25, gamma=3)
    assert value(loss, logits, mask) == pytest.approx(expected, rel=1e-5)
    plain = value(MultiClassFocalLoss(gamma=0), logits, mask)
    assert plain == pytest.approx(value(SegCELoss(), logits, mask), rel=1e-6)


@pytest.mark.parametrize(
    "node",
    ["SegCELoss", {"SegCELoss": {"class_weight": WEIGHTS}}, "MultiClassFocalLoss", "DiceLoss"],
    ids=str,
)
def test_parts_of_a_batch_have_the_gradient_of_the_whole(
    node: object, logits: np.ndarray, mask: np.ndarray
) -> None:
    both, masks = np.concatenate([logits, -logits[:1]]), np.concatenate([mask, mask[1:]])
    masks[2, 2:] = 255
    loss = CombinedLoss([build(node, "loss")])
    whole = paddle.to_tensor(both, stop_gradient=False)
    loss(whole, batch_of(masks))["loss"].backward()
    scores = paddle.to_tensor(both, stop_gradient=False)
    parts = [slice(0, 1), slice(1, 3)]
    batches = [batch_of(masks[part]) for part in parts]
    for part, batch, share in zip(parts, batches, shares(loss, batches, World())):
        share.of(loss(scores[part], batch)).backward()
    np.testing.assert_allclose(scores.grad, whole.grad, rtol=1e-5, atol=1e-8)


def test_an_auxiliary_head_is_named(logits: np.ndarray, mask: np.ndarray) -> None:
    scores = paddle.to_tensor(logits)
    outputs = {"logits": scores, "aux_0": -scores}
    loss = CombinedLoss([SegCELoss(), SegCELoss(weight=0.4, key="aux_0")])
    terms = loss(outputs, batch_of(mask))
    assert list(terms) == ["SegCELoss", "SegCELoss_1", "loss"]
    expected = value(SegCELoss(), logits, mask) + 0.4 * value(SegCELoss(), -logits, mask)
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match=r"gives logits, not 'aux_0'; heads .* in training only"):
        SegCELoss(key="aux_0")(scores, batch_of(mask))


def test_what_does_not_fit_is_named(logits: np.ndarray, mask: np.ndarray) -> None:
    scores = paddle.to_tensor(logits)
    wrong = mask.copy()
    wrong[1, 3, 3] = 7
    cases = [
        (r"a mask has the class 7, but the network gives 5 classes", SegCELoss(), wrong),
        (r"masks are \[2, 5, 7\]: expected", SegCELoss(), mask[:, :5]),
        (r"for each of the 5 classes, found 2", SegCELoss(class_weight=[1.0, 2.0]), mask),
    ]
    for message, loss, given in cases:
        with pytest.raises(UserError, match=message):
            loss(scores, batch_of(given))
    for options, message in (
        ({"class_weight": [0.0, 0.0]}, "all are 0"),
        ({"top_k_percent_pixels": 0.0}, "is 0, so nothing"),
    ):
        with pytest.raises(UserError, match=message):
            SegCELoss(**options)
