"""Cross entropy over classes, and over each of several attributes per image.

Label smoothing follows Szegedy et al. 2015 (arXiv 1512.00567), the attributes' frequency weights
Jia et al. 2021 (arXiv 2107.03576), as in PaddleClas's recipes. Read before: base.py, targets.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, NonNegativeFloat, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import Batch, Loss
from ppcls_lite.losses.targets import (
    attributes_of,
    class_distribution,
    count_labels,
    frequency_factor,
    logits_of,
)


@register("loss")
class CELoss(Loss):
    """Cross entropy between the softmax of the logits and hard, soft or mixed labels.

    With targets t (N, C), one-hot where the labels are class ids, and class weights w (default 1):

        loss = - sum_ic w_c t_ic log p_ic / sum_ic w_c t_ic

    `weight` is a factor of this term in the sum of all terms. `epsilon` (below 1) smooths every
    target, also a soft one: (1 - epsilon) t + epsilon / C. Images without label (class id -1) do
    not count; the value is 0 where all are such. Soft labels are used as given; PaddleClas 2.6
    passes them through a softmax when `epsilon` is not set. `class_weight: auto` weighs a class by
    images / (classes that occur * its images), so that all count alike.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        epsilon: Probability | None = None,
        class_weight: list[NonNegativeFloat] | Literal["auto"] | None = None,
        class_num: ClassCount | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, _smoothing(epsilon)
        self._class_num = class_num
        self._balanced = class_weight == "auto"
        if self._balanced:
            class_weight = None
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

    def see(self, dataset: Any) -> None:
        if not self._balanced:
            return
        counts = class_counts(dataset, self._class_num)
        weights = counts.sum() / (np.count_nonzero(counts) * counts.clip(min=1))
        weights[counts == 0] = 0
        self.class_weight = paddle.to_tensor(weights, dtype=paddle.float32)
        self.divides_by = "weights"

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


@register("loss")
class FocalLoss(CELoss):
    """Cross entropy in which classes that are told well already count little.

        loss = - sum_ic w_c t_ic (1 - p_ic)^gamma log p_ic / sum_ic w_c t_ic

    Lin et al. 2017 (arXiv 1708.02002, section 3), with the softmax instead of a sigmoid for each
    class; their alpha is `class_weight`. The arguments are CELoss's, and gamma; 0 is CELoss.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        gamma: NonNegativeFloat = 2.0,
        epsilon: Probability | None = None,
        class_weight: list[NonNegativeFloat] | Literal["auto"] | None = None,
        class_num: ClassCount | None = None,
    ) -> None:
        super().__init__(weight, epsilon, class_weight, class_num)
        self.gamma = gamma

    def forward(self, outputs: Tensor | Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """`{"FocalLoss": scalar}` for logits and labels as CELoss takes them."""
        logits = logits_of(outputs)
        target = self._target(batch["label"], logits.shape[-1])
        logs = F.log_softmax(logits, axis=1)  # (N, C)
        # Not below 0 by rounding: its power has a gradient there.
        missing = (1 - logs.exp()).clip(min=1e-7) ** self.gamma
        count = self.denominator(batch).clip(min=1e-12)
        return {"FocalLoss": -self.weight * (target * missing * logs).sum() / count}


@register("loss")
class BinaryCELoss(Loss):
    """Each class told from all others: sigmoid cross entropy of hard, soft or mixed labels.

    The mean over images and classes, as in Wightman et al. 2021 (arXiv 2110.00476, section 3.2).
    `weight` and `epsilon` as in CELoss; `target_threshold` makes what is above it a whole class,
    the rest none, so that both halves of a mixed image are in it. Images without label do not
    count.
    """

    divides_by = "labels"

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        epsilon: Probability | None = None,
        target_threshold: Probability | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, _smoothing(epsilon)
        self.threshold = target_threshold

    def forward(self, outputs: Tensor | Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """`{"BinaryCELoss": scalar}` for logits and labels as CELoss takes them."""
        logits = logits_of(outputs)
        target = class_distribution(batch["label"], logits.shape[1])
        known = (target.sum(axis=1) > 0).astype(target.dtype)  # (N,)
        target = (1 - self.epsilon) * target + self.epsilon / logits.shape[1]
        if self.threshold is not None:
            target = (target > self.threshold).astype(logits.dtype)
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(axis=1)
        count = self.denominator(batch).clip(min=1e-12)
        return {"BinaryCELoss": self.weight * (known * cost).sum() / count}

    def denominator(self, batch: Batch) -> Tensor:
        return count_labels(batch["label"])


@register("loss")
class MultiLabelLoss(Loss):
    """Sigmoid cross entropy of each attribute; unknown attributes (-1) do not count.

    Args: weight and epsilon as in CELoss, and
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
        self.weight, self.epsilon = weight, _smoothing(epsilon)
        self.size_sum, self.weight_ratio = size_sum, weight_ratio

    def forward(self, outputs: Tensor | Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """`{"MultiLabelLoss": scalar}` for logits (N, C) and labels as `attributes_of` reads."""
        logits, label = logits_of(outputs), batch["label"]
        target = attributes_of(label)
        if list(target.shape) != list(logits.shape):
            raise UserError(
                f"the labels have {target.shape[1]} attributes, the network {logits.shape[1]} "
                "outputs: set Arch.class_num to the number of attributes in the label file"
            )
        known = (target >= 0).astype(paddle.float32)
        target = target.clip(min=0.0)
        factor = frequency_factor(label) if self.weight_ratio else known
        if self.epsilon:
            target = (1 - self.epsilon) * target + self.epsilon / logits.shape[1]
        cost = factor * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        value = cost.sum(axis=1).mean() if self.size_sum else cost.mean()
        return {"MultiLabelLoss": self.weight * value}


def class_counts(dataset: Any, class_num: int | None) -> np.ndarray:
    """Images of each class (C,) of a data set with one class id each; raises UserError else."""
    labels = dataset.labels
    if labels is None or labels.ndim != 1:
        raise UserError("class_weight: auto needs a data set with one class for each image")
    known = labels[labels >= 0]
    return np.bincount(known, minlength=class_num or 0).astype(np.float64)


def _smoothing(epsilon: float | None) -> float:
    if epsilon is not None and epsilon >= 1:
        raise UserError(f"epsilon: expected less than 1, found {epsilon}: no label would count")
    return epsilon or 0.0
