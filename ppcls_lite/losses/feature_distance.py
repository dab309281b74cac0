"""How far features of a student are from its teacher's (Romero et al. 2014, arXiv 1412.6550).

The features are named outputs of the networks, `return_patterns: ["blocks5"]` under `Arch.models`.
Read before: distillation_terms.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, Ignored, NonNegativeFloat
from ppcls_lite.errors import UserError
from ppcls_lite.losses.distillation_terms import PairLoss

_DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


@register("loss")
class DistillationDistanceLoss(PairLoss):
    """Mean distance of features (N, C, H, W) or of logits (N, C), over all their numbers.

    Args:
        weight: factor of this term in the sum of all terms.
        mode: `l1`, `l2` (mean square), or `smooth_l1`.
        model_name_pairs: names in Arch.models.
        key: the feature's name, the same in both networks; None for the logits.
        channels: [student's, teacher's] number of channels, where they differ. The loss then has
            a 1x1 convolution from one to the other, which learns with the student and is no part
            of what ships.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        mode: Literal["l1", "l2", "smooth_l1"] = "l2",
        model_name_pairs: list[list[str]] = (("Student", "Teacher"),),
        key: str | None = None,
        channels: list[Channels] | None = None,
        act: Ignored = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(weight, model_name_pairs, key)
        self.term = f"DistanceLoss_{mode}" + (f"_{key}" if key else "")
        self.distance = _DISTANCES[mode]
        self.channels, self.adapter = channels, None
        if channels is None:
            return
        if len(channels) != 2 or len(self.pairs) > 1:
            raise UserError(
                "channels: expected two numbers, the student's and the teacher's, for one pair of "
                f"networks, found {channels} for {len(self.pairs)}; give each pair its own loss"
            )
        self.adapter = nn.Conv2D(*channels, 1)

    def check(self, student: Tensor, teacher: Tensor, *names: str) -> None:
        own, wanted = list(student.shape), list(teacher.shape)
        where = f"DistillationDistanceLoss, key {self.key or 'logits'}: {names[0]} has {own}, "
        where += f"{names[1]} {wanted}"
        if own[2:] != wanted[2:]:
            raise UserError(f"{where}: choose features of the same height and width")
        expected = self.channels or [wanted[1]] * 2
        if [own[1], wanted[1]] != expected:
            raise UserError(
                f"{where}, but expected {expected[0]} and {expected[1]} channels: set `channels: "
                f"[{own[1]}, {wanted[1]}]` for an adapter between them"
            )

    def compare(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        if self.adapter is not None:
            flat = student.ndim == 2
            student = student.unsqueeze([2, 3]) if flat else student  # (N, C, H, W)
            student = self.adapter(student).astype(teacher.dtype)
            student = student.flatten(1) if flat else student  # as the teacher's
        return self.distance(student, teacher)
