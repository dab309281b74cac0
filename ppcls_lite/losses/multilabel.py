"""Binary cross entropy for images with several attributes at once.

The frequency weights follow Jia et al. 2021, "Rethinking of Pedestrian Attribute Recognition"
(arXiv 2107.03576), as PaddleClas's attribute recipes use them. Read next: combined.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeFloat, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import Batch, Loss
from ppcls_lite.losses.targets import attributes_of, frequency_factor, logits_of


@register("loss")
class MultiLabelLoss(Loss):
    """Sigmoid cross entropy of each attribute; unknown attributes (-1) do not count.

    Args:
        weight: factor of this term in the sum of all terms.
        epsilon: label smoothing, (1 - epsilon) t + epsilon / C, below 1; 0 or None for none.
        size_sum: sum over the attributes of an image instead of their mean.
        weight_ratio: weigh an attribute with frequency r by exp(1 - r) where it is present and
            by exp(r) where it is absent; needs `label_ratio: true` in the data set.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        epsilon: Probability | None = None,
        size_sum: bool = False,
        weight_ratio: bool = False,
    ) -> None:
        super().__init__()
        if epsilon is not None and epsilon >= 1:
            raise UserError(f"epsilon: expected less than 1, found {epsilon}: no label would count")
        self.weight = weight
        self.epsilon = epsilon or 0.0
        self.size_sum = size_sum
        self.weight_ratio = weight_ratio

    def forward(self, outputs: Tensor | Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """`{"MultiLabelLoss": scalar}` for logits (N, C) and labels as `attributes_of` reads."""
        logits, label = logits_of(outputs), batch["label"]
        target = attributes_of(label)
        if list(target.shape) != list(logits.shape):
            raise UserError(
                f"the labels have {target.shape[1]} attributes, the network {logits.shape[1]} "
                "outputs: set Arch.class_num to the number of attributes in the label file"
            )
        if self.weight_ratio:
            factor = frequency_factor(label)
        else:
            factor = (target >= 0).astype(paddle.float32)
        if self.epsilon:
            target = (1 - self.epsilon) * target + self.epsilon / logits.shape[1]
        cost = factor * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        value = cost.sum(axis=1).mean() if self.size_sum else cost.mean()
        return {"MultiLabelLoss": self.weight * value}
