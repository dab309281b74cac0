"""Cross entropy over classes, with label smoothing (Szegedy et al. 2015, arXiv 1512.00567).

Read next: combined.py (several terms), multilabel.py (several attributes per image).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, NonNegativeFloat, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import Batch, Loss
from ppcls_lite.losses.targets import class_distribution, count_labels, logits_of


@register("loss")
class CELoss(Loss):
    """Cross entropy between the softmax of the logits and hard, soft or mixed labels.

    With targets t (N, C), one-hot where the labels are class ids, and class weights w (default 1):

        loss = - sum_ic w_c t_ic log p_ic / sum_ic w_c t_ic

    which is the mean over the batch without weights, and the weighted mean for class ids.
    Images without label (class id -1) do not count; the value is 0 where all are such.
    `epsilon` smooths every target, also a soft one: (1 - epsilon) t + epsilon / C.
    Soft labels (from mixup, cutmix, a data set) are used as given; PaddleClas 2.6 passes them
    through a softmax when `epsilon` is not set, which flattens them.

    Args:
        weight: factor of this term in the sum of all terms.
        epsilon: label smoothing, below 1; 0 or None for none.
        class_weight: one factor per class, for unbalanced data.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        epsilon: Probability | None = None,
        class_weight: list[NonNegativeFloat] | None = None,
        class_num: ClassCount | None = None,
    ) -> None:
        super().__init__()
        if epsilon is not None and epsilon >= 1:
            raise UserError(f"epsilon: expected less than 1, found {epsilon}: no label would count")
        self.weight = weight
        self.epsilon = epsilon or 0.0
        buffer = None
        if class_weight is not None:
            if class_num is not None and len(class_weight) != class_num:
                raise UserError(
                    f"class_weight: expected one number for each of the {class_num} classes, "
                    f"found {len(class_weight)}"
                )
            if not any(class_weight):
                raise UserError("class_weight: all are 0, so nothing would be learnt")
            buffer = paddle.to_tensor(class_weight, dtype=paddle.float32)  # (C,)
        self.register_buffer("class_weight", buffer, persistable=False)
        self.divides_by = "labels" if buffer is None else "weights"

    def forward(self, outputs: Tensor | Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """`{"CELoss": scalar}` for logits (N, C) and `batch["label"]` (N,), (N, 1) or (N, C)."""
        logits = logits_of(outputs)
        target = self._target(batch["label"], logits.shape[-1])
        # A batch in which nothing counts gives 0, instead of 0 / 0.
        count = self.denominator(batch).clip(min=1e-12)
        # -sum t log p = (sum t) logsumexp(z) - sum t z: no logarithm of a probability, which could
        # be 0, and on a CPU much faster than Paddle's log_softmax.
        whole = target.sum(axis=1) * logits.logsumexp(axis=1)  # (N,)
        value = (whole - (target * logits).sum(axis=1)).sum() / count
        return {"CELoss": self.weight * value}

    def denominator(self, batch: Batch) -> Tensor:
        if self.class_weight is None:
            return count_labels(batch["label"])
        return self._target(batch["label"], len(self.class_weight)).sum()

    def _target(self, label: Tensor, class_num: int) -> Tensor:
        """How much each class of each image counts (N, C); 0 for an image without label."""
        target = class_distribution(label, class_num)
        if self.epsilon:
            known = (target.sum(axis=1, keepdim=True) > 0).astype(target.dtype)
            target = (1 - self.epsilon) * target + known * self.epsilon / class_num
        return target if self.class_weight is None else target * self.class_weight
