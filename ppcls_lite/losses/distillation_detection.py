"""A detector learns from a larger one: its scores, and where it sees the sides of objects.

Read before: distillation_terms.py, picodet.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeFloat, PositiveFloat
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import Batch, Loss, Ratio
from ppcls_lite.losses.detection import quality_focal
from ppcls_lite.losses.targets import output_of


@dataclass(eq=False, repr=False)
@register("loss")
class DistillationDetectionLoss(Loss):
    """What a student says at each place against what its teacher says there.

    Scores: quality focal loss (arXiv 2006.04388) with the teacher's as the quality. Sides: the
    divergence of their distributions, where the teacher sees something, as much as it is sure of
    it (localization distillation, arXiv 2102.12252). Both are divided by the sum of the teacher's
    best scores at all places, never by less than 1. Terms are called `scores_<student>_<teacher>`
    and `sides_<student>_<teacher>`. Both networks have the same classes, strides and `reg_max`.

    Args:
        model_name_pairs: names in Arch.models, the student first.
        score_weight, side_weight: of the two terms.
        temperature: that the sides' logits are divided by.
    """

    model_name_pairs: list[list[str]] = (("Student", "Teacher"),)
    score_weight: NonNegativeFloat = 1.0
    side_weight: NonNegativeFloat = 0.25
    temperature: PositiveFloat = 4.0

    divides_by = "outputs"

    def __post_init__(self) -> None:
        super().__init__()
        if any(len(pair) != 2 for pair in self.model_name_pairs):
            raise UserError(
                "model_name_pairs: expected pairs of two networks' names, for example "
                f'[["Student", "Teacher"]], found {[list(pair) for pair in self.model_name_pairs]}'
            )

    def forward(self, outputs: Mapping[str, Any], batch: Batch) -> dict[str, Ratio]:
        """The terms of the outputs by network, each with `scores` and `sides` as PicoDet's."""
        terms = {}
        for student, teacher in self.model_name_pairs:
            found = [
                [output_of(outputs, name, key) for name in (student, teacher)]
                for key in ("scores", "sides")
            ]
            for key, pair in zip(("scores", "sides"), found):
                if pair[0].shape != pair[1].shape:
                    raise UserError(
                        f"DistillationDetectionLoss: {student} gives {key} of the shape "
                        f"{tuple(pair[0].shape)}, {teacher} {tuple(pair[1].shape)}: both need the "
                        "same class_num, strides and reg_max"
                    )
            scores, sides = self._terms(*found)
            sure = found[0][1].max(axis=1).sum()
            terms[f"scores_{student}_{teacher}"] = Ratio(self.score_weight * scores, sure)
            terms[f"sides_{student}_{teacher}"] = Ratio(self.side_weight * sides, sure)
        return terms

    def _terms(self, scores: list[Tensor], sides: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The sums over (N, C, L) scores and (N, 4, bins, L) sides of the student and teacher."""
        own, known = scores
        mine, theirs = (F.log_softmax(part / self.temperature, axis=2) for part in sides)
        apart = (theirs.exp() * (theirs - mine)).sum(axis=2).mean(axis=1)  # (N, L)
        apart = apart * known.max(axis=1) * self.temperature**2
        return quality_focal(own, known).sum(), apart.sum()
