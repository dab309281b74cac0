"""PicoDet without suppression: of each object the network itself gives one box.

Two heads learn from the same features (Wang et al. 2024, YOLOv10, arXiv 2405.14458, section 3.1):
one gives each object to many places and teaches trunk and neck, the other to a single place. Only
the latter answers. Read before: picodet.py.
"""

from __future__ import annotations

from typing import Any

from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, HeadSpec, NeckSpec, TrunkSpec
from ppcls_lite.models.picodet import PicoDet


@register("model")
class PicoDetOneToOne(PicoDet):
    """PicoDet whose second head is there for training only.

    Args: those of PicoDet; both heads are built alike. The recipe has a `PicoDetLoss` for each,
    that of the head that answers with an assigner of one place, and a post-processing that does
    not suppress (`nms_threshold: 1.0`).
    """

    head_layers = ("head", "many_head")

    def __init__(
        self, backbone: TrunkSpec, neck: NeckSpec, head: HeadSpec, class_num: ClassCount = 80
    ) -> None:
        super().__init__(backbone, neck, head, class_num)
        self.many_head = head.build(self.neck.channels[0], len(self.neck.channels), class_num)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """As PicoDet's, by the head that answers; in training also `many`, by the other one.

        What the head that answers learns does not reach the neck, which one place for each object
        teaches badly.
        """
        features = self.features(x)
        if not self.training:
            return self.seen(self.head, features)
        found = self.seen(self.head, [feature.detach() for feature in features])
        return found | {"many": self.seen(self.many_head, features)}
