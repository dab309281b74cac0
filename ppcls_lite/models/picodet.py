"""PicoDet: objects, by a trunk of the zoo, a neck and a head without anchor boxes.

Paper: https://arxiv.org/abs/2111.00902; with PP-LCNet as its trunk it is the detector of PP-LCNet's
section 4.4 (https://arxiv.org/abs/2109.15099). Every cell of four grids (strides 8 to 64) says
which class is there and how far from it the sides of the object's box are.
Read before: picodet_neck.py, picodet_head.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, HeadSpec, NeckSpec, TrunkSpec
from ppcls_lite.errors import UserError
from ppcls_lite.models.network import Network
from ppcls_lite.ops.boxes import boxes_around

_STRIDES = (8, 16, 32)  # of the trunk's features
_DIVISOR = 32  # of an image's edges: each stride's features are twice the next one's
_UNUSED = re.compile(r"head\.(distribution_project\.project|p\d_feat\.scale_reg)")
_TWICE = re.compile(r"head\.head_(cls|reg)_list\.(\d+)\.")  # the same layer is head_cls0, too


@register("model")
class PicoDet(Network):
    """PicoDet on any trunk with features at the strides 8, 16 and 32.

    backbone: the trunk. neck, head: CSPPAN and PicoHead (2021), or LCPAN and PicoHeadV2 (2022).
    class_num: kinds of objects.
    """

    outputs = ("boxes", "scores")
    head_layers = ("head",)

    def __init__(
        self, backbone: TrunkSpec, neck: NeckSpec, head: HeadSpec, class_num: ClassCount = 80
    ) -> None:
        super().__init__()
        if tuple(backbone.strides[-3:]) != _STRIDES:
            raise UserError(
                f"PicoDet: expected a backbone whose last three stages have the strides {_STRIDES} "
                f"(keep its stride_list), found {tuple(backbone.strides[-3:])}"
            )
        self.class_num = class_num
        self.backbone = backbone
        self.neck = neck.build(backbone.channels[-3:])
        levels = len(self.neck.channels)
        self.head = head.build(self.neck.channels[0], levels, class_num)
        self.strides = [_STRIDES[0] * 2**level for level in range(levels)]
        kinds = ("scores", "sides")
        self.raw_outputs = tuple(f"{kind}_{stride}" for kind in kinds for stride in self.strides)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W), both a multiple of 32 -> what is seen at L places.

        `boxes` (N, L, 4), x1 y1 x2 y2 in pixels of the images; `scores` (N, C, L), probabilities;
        `sides` (N, 4, bins, L), logits of how far away these are, in strides; `places` (N, L, 3),
        x, y and stride. PicoHead gives `logits` (N, C, L) of the scores as well. Places are in the
        order of the strides, row by row.
        """
        features = self.features(x)
        answers = self.head.answers(features)
        logits, scores, sides = (
            None if parts[0] is None else paddle.concat([p.flatten(2) for p in parts], axis=2)
            for parts in zip(*answers)
        )
        places = self._places(features)
        sides = sides.reshape([0, 4, self.head.bins, -1])  # (N, 4, bins, L)
        found = {"boxes": self._boxes(sides, places), "scores": scores, "sides": sides}
        if logits is not None:
            found["logits"] = logits
        return found | {"places": places.unsqueeze(0).expand([scores.shape[0], -1, -1])}

    def features(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> what the neck gives (N, C, h, w) for each stride."""
        if paddle.in_dynamic_mode():  # else the sizes of a program may be free
            _require_multiples(*x.shape[2:])
        return self.neck(self.backbone.forward_stages(x)[-3:])

    def deployed(self, x: Tensor) -> list[Tensor]:
        found = self(x)
        return [found["boxes"], found["scores"]]

    def raw(self, x: Tensor) -> list[Tensor]:
        """For each stride the probabilities (N, C, h, w), then for each stride the logits of the
        sides (N, 4 * bins, h, w): left, top, right, bottom, whose mean bin is a number of strides.
        """
        answers = self.head.answers(self.features(x))
        return [parts[1] for parts in answers] + [parts[2] for parts in answers]

    def _boxes(self, sides: Tensor, places: Tensor) -> Tensor:
        """(N, L, 4): a side is at the mean of its distribution.

        The mean is a convolution: Paddle's oneDNN takes a wrong matrix product behind one.
        """
        chances = F.softmax(sides.transpose([0, 2, 1, 3]), axis=1)  # (N, bins, 4, L)
        bins = np.arange(self.head.bins, dtype=np.float32).reshape(1, -1, 1, 1)
        means = F.conv2d(chances, paddle.to_tensor(bins).astype(chances.dtype))  # (N, 1, 4, L)
        away = means.squeeze(1).transpose([0, 2, 1]) * places[:, 2:]  # (N, L, 4)
        return boxes_around(places[:, :2], away)

    def _places(self, features: list[Tensor]) -> Tensor:
        """Centres and strides of all cells (L, 3)."""
        levels = []
        for feature, stride in zip(features, self.strides):
            height, width = feature.shape[2:]
            x = ((paddle.arange(width, dtype="float32") + self.head.offset) * stride).unsqueeze(0)
            y = ((paddle.arange(height, dtype="float32") + self.head.offset) * stride).unsqueeze(1)
            cells = [x.expand([height, width]), y.expand([height, width])]
            cells.append(paddle.full_like(cells[0], stride))
            levels.append(paddle.stack(cells, axis=-1).reshape([-1, 3]))
        return paddle.concat(levels)

    @classmethod
    def classes_in(cls, state: Mapping[str, Any]) -> int | None:
        """PicoHead's convolution gives the sides as well, and does not say where these begin."""
        apart = "head.head_reg0.bias" in state
        return len(state["head.head_cls0.bias"]) if apart else None

    def own_state(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """A file of PaddleDetection: without what it holds twice or never uses.

        Its MobileNetV3 counts its blocks as `backbone.conv2` ..., ours, as PaddleClas, in `blocks`.
        """
        renamed = {}
        for key, value in state.items():
            if _UNUSED.fullmatch(key):
                continue
            twice = _TWICE.match(key)
            if twice and _TWICE.sub(r"head.head_\1\2.", key) in state:
                continue
            key = _TWICE.sub(r"head.head_\1\2.", key)
            if "backbone.conv2.expand_conv.conv.weight" in state:
                key = re.sub(r"^backbone\.conv1\.", "backbone.conv.", key)
                key = re.sub(
                    r"^backbone\.conv(\d+)\.",
                    lambda found: f"backbone.blocks.{int(found[1]) - 2}.",
                    key,
                )
            renamed[key] = value
        return renamed


def _require_multiples(height: int, width: int) -> None:
    """UserError for an image that the necks cannot take."""
    if height % _DIVISOR or width % _DIVISOR:
        raise UserError(
            f"PicoDet: expected images whose edges are multiples of {_DIVISOR} pixels, found "
            f"{width} x {height} (width, height): resize to such a size, or end with "
            f"Padv2: {{size_divisor: {_DIVISOR}}} before NormalizeImage"
        )
