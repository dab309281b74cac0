"""Terms of a detector's loss, element by element; how they are put together: picodet.py.

All are given tensors of any shape, and keep the gradient of their weights, as PaddleDetection's.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.ops.boxes import giou

_LOG_FLOOR = 1e-37  # the least logarithm is -85


def varifocal(score: Tensor, quality: Tensor, logit: Tensor | None = None) -> Tensor:
    """Varifocal loss (arXiv 2008.13367) of probabilities that should be `quality`, 0 for others.

    Cross entropy, which counts by the quality itself where there is one, and by 0.75 score^2
    elsewhere. logit: of the scores, where they have any.
    """
    own = _entropy(score, quality, logit) * quality
    return paddle.where(quality > 0, own, varifocal_background(score, logit))


def varifocal_background(score: Tensor, logit: Tensor | None = None) -> Tensor:
    """`varifocal` where the quality is 0."""
    entropy = -_log(1 - score) if logit is None else F.softplus(logit)
    return 0.75 * score.square() * entropy


def quality_focal(
    score: Tensor, quality: Tensor, logit: Tensor | None = None, beta: float = 2.0
) -> Tensor:
    """Quality focal loss (arXiv 2006.04388, equation 1): |score - quality|^beta cross entropy."""
    return _entropy(score, quality, logit) * (score - quality).abs() ** beta


def distribution_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Distribution focal loss (arXiv 2006.04388, equation 6), (..., bins) and (...) -> (...).

    The target, from 0 to less than bins - 1, lies between two bins, whose chances should share 1
    in proportion to their nearness.
    """
    left = target.floor().clip(0, logits.shape[-1] - 2)
    chances = F.log_softmax(logits, axis=-1)
    near, far = (
        paddle.take_along_axis(chances, place.astype("int64").unsqueeze(-1), axis=-1).squeeze(-1)
        for place in (left, left + 1)
    )
    return (target - left - 1) * near + (left - target) * far


def giou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """1 - generalized IoU (arXiv 1902.09630), (..., 4) -> (...), from 0 to 2."""
    return 1 - giou(boxes, truth)


def _entropy(score: Tensor, quality: Tensor, logit: Tensor | None) -> Tensor:
    if logit is not None:
        return F.binary_cross_entropy_with_logits(logit, quality, reduction="none")
    return -(quality * _log(score) + (1 - quality) * _log(1 - score))


def _log(chance: Tensor) -> Tensor:
    """Logarithm that stays finite at 0."""
    return chance.clip(min=_LOG_FLOOR).log()
