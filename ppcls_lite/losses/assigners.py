"""The assigners that a recipe names, and their settings; what they compute: ../ops/assigners.py.

Called with scores (N, C, L), boxes (N, L, 4), places (L, 3), truth (N, G, 4) and classes (N, G).
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeFloat, PositiveFloat, PositiveInt
from ppcls_lite.ops import assigners
from ppcls_lite.ops.assigners import Assignment


@register("assigner")
@dataclass
class SimOTA:
    """The assigner of the first PicoDet: each box takes the places that cost the least.

    Args:
        center_radius: strides from a box's centre within which a place is preferred.
        candidate_topk: overlaps that are added up to the number of a box's places.
        cls_weight, iou_weight: of the class and of the overlap in what a place costs.
        use_vfl: false: these costs are cross entropy and the logarithm of the overlap.
    """

    center_radius: PositiveFloat = 2.5
    candidate_topk: PositiveInt = 10
    cls_weight: NonNegativeFloat = 1.0
    iou_weight: NonNegativeFloat = 6.0
    use_vfl: bool = True

    def __call__(self, *found: Tensor) -> Assignment:
        options = (self.center_radius, self.candidate_topk, self.cls_weight, self.iou_weight)
        return assigners.simota(*found, *options, self.use_vfl)


@register("assigner")
@dataclass
class ATSS:
    """The assigner of the second PicoDet's first epochs, which looks at squares around the places.

    Args:
        topk: places of each stride that a box looks at.
        anchor_scale: side of the squares, in strides.
        force_gt_matching: a box takes at least the place of its best square.
    """

    topk: PositiveInt = 9
    anchor_scale: PositiveFloat = 5.0
    force_gt_matching: bool = False

    def __call__(self, *found: Tensor) -> Assignment:
        return assigners.atss(*found, self.topk, self.anchor_scale, self.force_gt_matching)


@register("assigner")
@dataclass
class TaskAligned:
    """The assigner of the second PicoDet: each box takes the places that fit in class and sides.

    Args:
        topk: places that a box takes.
        alpha, beta: exponents of score and overlap.
    """

    topk: PositiveInt = 13
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 6.0

    def __call__(self, *found: Tensor) -> Assignment:
        return assigners.task_aligned(*found, self.topk, self.alpha, self.beta)
