"""The stem of PP-HGNetV2 and PP-LCNetV4: stride 4, with a max pooling beside two 2x2 convolutions.

Read next: pphgnet_v2.py, pplcnet_v4.py.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import Tensor, nn


class BranchStem(nn.Layer):
    """(N, in_channels, H, W) -> (N, out_channels, H / 4, W / 4).

    `layer(in_channels, out_channels, kernel_size, stride)` makes a convolution with its
    normalisation and activation. The 2x2 windows look at the pixels below and on the right.
    """

    def __init__(
        self,
        in_channels: int,
        middle: int,
        out_channels: int,
        layer: Callable[[int, int, int, int], nn.Layer],
    ) -> None:
        super().__init__()
        self.stem1 = layer(in_channels, middle, 3, 2)
        self.stem2a = layer(middle, middle // 2, 2, 1)
        self.stem2b = layer(middle // 2, middle, 2, 1)
        self.stem3 = layer(middle * 2, middle, 3, 2)
        self.stem4 = layer(middle, out_channels, 1, 1)
        self.pool = nn.MaxPool2D(2, 1, padding="SAME")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem1(x)  # (N, middle, H / 2, W / 2)
        convolved = self.stem2b(self.stem2a(x))  # (N, middle, H / 2, W / 2)
        x = paddle.concat([self.pool(x), convolved], axis=1)  # (N, 2 * middle, H / 2, W / 2)
        return self.stem4(self.stem3(x))
