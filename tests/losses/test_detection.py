"""The terms of a detector's loss: PaddleDetection's values, and what no formula may give."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.losses.detection import (
    distribution_focal,
    giou_loss,
    quality_focal,
    varifocal,
    varifocal_background,
)

GOLDEN = Path(__file__).parents[1] / "fixtures" / "detection" / "parts.json"
LOSSES = json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"]
LOGITS = paddle.to_tensor([[-2, 0.5, 1], [0, -1, 3], [0.3, 0.2, -0.7]], dtype="float32")
QUALITY = paddle.to_tensor([[0, 0.6, 0], [0, 0, 0], [0.9, 0, 0]], dtype="float32")


def test_varifocal() -> None:
    scores = F.sigmoid(LOGITS)
    with_logits = varifocal(scores, QUALITY, LOGITS)
    np.testing.assert_allclose(with_logits.numpy(), LOSSES["vfl_sigmoid"], rtol=1e-6)
    without = varifocal(scores, QUALITY).sum(axis=1)
    np.testing.assert_allclose(without.numpy(), LOSSES["vfl_prob"], rtol=1e-6)
    nothing = paddle.zeros_like(QUALITY)
    for logit in (None, LOGITS):
        alike = varifocal(scores, nothing, logit), varifocal_background(scores, logit)
        np.testing.assert_array_equal(alike[0].numpy(), alike[1].numpy())


def test_distribution_focal() -> None:
    drawn = np.random.RandomState(zlib.crc32(b"input:dfl")).standard_normal((3, 8))
    found = distribution_focal(
        paddle.to_tensor(drawn.astype("float32")), paddle.to_tensor([0.3, 3.75, 6.9])
    )
    np.testing.assert_allclose(found.numpy(), LOSSES["dfl"], rtol=1e-6)


def test_giou() -> None:
    boxes = paddle.to_tensor([[0, 0, 10, 10], [0, 0, 4, 4], [1, 2, 3, 4]], dtype="float32")
    truth = paddle.to_tensor([[5, 5, 15, 15], [6, 6, 9, 9], [1, 2, 3, 4]], dtype="float32")
    np.testing.assert_allclose(
        giou_loss(boxes, truth).numpy(), LOSSES["giou_loss"], rtol=1e-6, atol=1e-7
    )


def test_quality_focal() -> None:
    found = quality_focal(F.sigmoid(LOGITS), QUALITY, LOGITS).sum(axis=1)
    np.testing.assert_allclose(found.numpy(), LOSSES["qfl"], rtol=1e-6)


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0])
def test_scores_at_their_ends_are_finite(score: float, quality: float) -> None:
    scores = paddle.to_tensor([score], stop_gradient=False)
    value = varifocal(scores, paddle.to_tensor([quality])).sum()
    value.backward()
    assert np.isfinite(float(value))
    assert np.isfinite(scores.grad.numpy()).all()
