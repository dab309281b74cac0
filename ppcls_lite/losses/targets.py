"""What losses and metrics read from a batch, whichever of the accepted shapes it comes in.

Read next: cross_entropy.py, multilabel.py, ../metrics/base.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.errors import UserError


def logits_of(outputs: Tensor | Mapping[str, Any]) -> Tensor:
    """The logits (N, C) of a network's output, in float32 whatever the mixed precision."""
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
    return logits.astype(paddle.float32)


def is_soft(label: Tensor, class_num: int) -> bool:
    """Whether `label` is a distribution over the classes (N, C), not a class id (N,) or (N, 1)."""
    return label.ndim == 2 and label.shape[1] == class_num and label.is_floating_point()


def class_distribution(label: Tensor, class_num: int) -> Tensor:
    """Targets (N, C) float32: class ids (N,) or (N, 1) become one-hot, soft labels stay.

    Raises UserError for any other shape.
    """
    if is_soft(label, class_num):
        return label.astype(paddle.float32)
    if label.ndim > 2 or (label.ndim == 2 and label.shape[1] != 1):
        raise UserError(
            f"labels of shape {tuple(label.shape)} do not fit logits of {class_num} classes: "
            f"expected class ids (N,) or soft labels (N, {class_num}); "
            "for several attributes per image use MultiLabelLoss"
        )
    return F.one_hot(label.flatten().astype(paddle.int64), class_num)  # (N, C)


def attributes_of(label: Tensor) -> Tensor:
    """Multi-hot targets (N, C) float32 of a multi-label batch: 1, 0, or -1 for unknown.

    `label` is (N, C), (N, 1, C), or (N, 2, C) with the attributes' frequencies as second row
    (`MultiLabelDataset` with `label_ratio: true`). Raises UserError for any other shape.
    """
    if label.ndim == 3 and label.shape[1] in (1, 2):
        label = label[:, 0]  # (N, C)
    if label.ndim != 2:
        raise UserError(
            f"multi-label targets of shape {tuple(label.shape)}: expected (N, C) or (N, 2, C); "
            "use MultiLabelDataset with the multi-label losses and metrics"
        )
    return label.astype(paddle.float32)
