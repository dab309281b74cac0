"""PicoDet without suppression: of each object the network itself gives one box.

To an ordinary PicoDet, which gives each object to many places, comes a small layer that says which
of them speaks for the object (Zhou et al. 2021, arXiv 2101.11782, "PSS"): what it says multiplies
the scores. It sees the neck's features and the scores around, so it can learn what a suppression of
doubles does; nothing of it reaches the rest of the network. Read before: picodet.py.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, HeadSpec, NeckSpec, TrunkSpec
from ppcls_lite.models.picodet import Answer, PicoDet
from ppcls_lite.models.picodet_neck import DepthwisePointwise

_KERNEL = 5
_FIRST = 2.0  # at first nearly all places speak: sigmoid(2) is 0.88


class Pick(nn.Layer):
    """Which places of a level speak: feature (N, C, h, w) and scores (N, classes, h, w) -> logits
    (N, 1, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2D(channels + 1, channels, 1)
        self.look = DepthwisePointwise(channels, channels, _KERNEL)
        self.look_again = DepthwisePointwise(channels, channels, _KERNEL)
        first = ParamAttr(initializer=Constant(_FIRST))
        self.answer = nn.Conv2D(channels, 1, 1, bias_attr=first)

    def forward(self, feature: Tensor, scores: Tensor) -> Tensor:
        highest = scores.max(axis=1, keepdim=True)
        x = F.hardswish(self.mix(paddle.concat([feature, highest], axis=1)))
        return self.answer(self.look_again(self.look(x)))


@register("model")
class PicoDetOneToOne(PicoDet):
    """PicoDet whose answers need no suppression.

    Args: those of PicoDet, whose weights it can begin with: only `pick` is more. The recipe has a
    `PicoDetLoss` of the `part: many`, the ordinary PicoDet, and one of the picked scores with an
    assigner of one place, and a post-processing that does not suppress (`nms_threshold: 1.0`).
    """

    head_layers = ("head", "pick")

    def __init__(
        self, backbone: TrunkSpec, neck: NeckSpec, head: HeadSpec, class_num: ClassCount = 80
    ) -> None:
        super().__init__(backbone, neck, head, class_num)
        self.pick = nn.LayerList(Pick(channels) for channels in self.neck.channels)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """As PicoDet's, with the picked scores; in training also `many`, what the ordinary PicoDet
        says, which alone teaches trunk, neck and head."""
        features = self.features(x)
        many = self.head.answers(features)
        if not self.training:
            return self.found(self._picked(features, many), features)
        apart = [feature.detach() for feature in features]
        fixed = [(None, scores.detach(), sides.detach()) for _, scores, sides in many]
        found = self.found(self._picked(apart, fixed), features)
        return found | {"many": self.found(many, features)}

    def answers(self, features: list[Tensor]) -> list[Answer]:
        return self._picked(features, self.head.answers(features))

    def _picked(self, features: list[Tensor], answers: list[Answer]) -> list[Answer]:
        picks = (pick(x, a[1]) for pick, x, a in zip(self.pick, features, answers))
        return [(None, a[1] * F.sigmoid(pick), a[2]) for pick, a in zip(picks, answers)]
