"""Two branches whose channels take turns: the blocks of ShuffleNetV2.

Source: https://arxiv.org/abs/1807.11164, figure 3. Read next: shufflenet_v2.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


def in_turns(one: Tensor, two: Tensor) -> Tensor:
    """Both (N, C, H, W) -> (N, 2 C, H, W): a channel of the one, a channel of the other, ..."""
    return F.channel_shuffle(paddle.concat([one, two], axis=1), 2)


class Shuffled(nn.Layer):
    """Two branches whose channels take turns, so that the next split mixes them.

    (N, C, H, W) -> (N, 2 C', h, w), of two tensors (N, C', h, w). A first branch without layers is
    half of the input's channels, and the second one gets the others; else both get all.
    """

    def branches(self) -> tuple[Sequence[nn.Layer], Sequence[nn.Layer]]:
        """The layers of both, each one after another."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        ways = [x, x] if self.branches()[0] else paddle.split(x, 2, axis=1)
        for i, layers in enumerate(self.branches()):
            for layer in layers:
                ways[i] = layer(ways[i])
        return in_turns(*ways)
