"""What losses and metrics read from a batch, whichever of the accepted shapes it comes in.

Read next: cross_entropy.py, ../metrics/base.py.
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


def output_of(outputs: Any, model: str, key: str | None = None) -> Tensor:
    """One output of one network of a distillation, in float32.

    outputs: by network, `{"Student": ..., "Teacher": ...}`, logits or a dict with `logits` and
    features. key: which of them; None for logits. Raises UserError naming what there is instead.
    """
    if not isinstance(outputs, Mapping) or model not in outputs:
        found = f"there are {_listed(outputs)}" if isinstance(outputs, Mapping) else "there is one"
        raise UserError(
            f"the loss or metric asks for the network {model!r}, but {found}: name the networks "
            "as Arch.models does (model_name_pairs, model_names, model_key)"
        )
    output, key = outputs[model], key or "logits"
    if not isinstance(output, Mapping):
        output = {"logits": output}
    if key not in output:
        raise UserError(
            f"the loss or metric asks for the output {key!r} of {model}, which has "
            f"{_listed(output)}: add it to Arch.models.{model}.return_patterns, or correct `key`"
        )
    return output[key].astype(paddle.float32)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))


def is_soft(label: Tensor, class_num: int) -> bool:
    """Whether `label` is a distribution over the classes (N, C), not a class id (N,) or (N, 1)."""
    return label.ndim == 2 and label.shape[1] == class_num and label.is_floating_point()


def class_distribution(label: Tensor, class_num: int) -> Tensor:
    """Targets (N, C) float32: class ids (N,) or (N, 1) become one-hot, soft labels stay.

    An image without label (class id -1) gets a row of zeros. UserError for any other shape.
    """
    if is_soft(label, class_num):
        return label.astype(paddle.float32)
    if label.ndim > 2 or (label.ndim == 2 and label.shape[1] != 1):
        raise UserError(
            f"labels of shape {tuple(label.shape)} do not fit logits of {class_num} classes: "
            f"expected class ids (N,) or soft labels (N, {class_num}); "
            "for several attributes per image use MultiLabelLoss"
        )
    ids, known = known_ids(label)
    return F.one_hot(ids, class_num) * known.unsqueeze(1)  # (N, C)


def known_ids(label: Tensor) -> tuple[Tensor, Tensor]:
    """Class ids (N,) int64, 0 where there is none, and which are known: 1 or 0 (N,) float32."""
    ids = label.flatten().astype(paddle.int64)  # (N,)
    return ids.clip(min=0), (ids >= 0).astype(paddle.float32)


def count_labels(label: Tensor) -> Tensor:
    """How many images have a label, float32: of class ids those from 0 on, of soft ones all."""
    if label.ndim == 2 and label.shape[1] > 1:
        return paddle.full([], label.shape[0])
    return known_ids(label)[1].sum()


def frequency_factor(label: Tensor) -> Tensor:
    """How much each attribute of each image counts (N, C): rare answers more, unknown ones 0.

    exp(1 - r) where an attribute of frequency r is present, exp(r) where it is absent. `label` is
    (N, 2, C) with the frequencies in the second row; UserError for any other shape.
    """
    if label.ndim != 3 or label.shape[1] != 2:
        raise UserError(
            "weight_ratio: true needs the frequency of each attribute in the batch: set "
            "label_ratio: true in the data set (MultiLabelDataset), or weight_ratio: false"
        )
    target, frequency = attributes_of(label), label[:, 1].astype(paddle.float32)  # (N, C) each
    factor = paddle.exp(paddle.where(target > 0.5, 1 - frequency, frequency))
    return factor * (target >= 0).astype(paddle.float32)


def attributes_of(label: Tensor) -> Tensor:
    """Multi-hot targets (N, C) float32 of a multi-label batch: 1, 0, or -1 for unknown.

    `label` is (N, C), (N, 1, C), or (N, 2, C) with the attributes' frequencies as second row
    (`MultiLabelDataset` with `label_ratio: true`). UserError for any other shape.
    """
    if label.ndim == 3 and label.shape[1] in (1, 2):
        label = label[:, 0]  # (N, C)
    if label.ndim != 2:
        raise UserError(
            f"multi-label targets of shape {tuple(label.shape)}: expected (N, C) or (N, 2, C); "
            "use MultiLabelDataset with the multi-label losses and metrics"
        )
    return label.astype(paddle.float32)
