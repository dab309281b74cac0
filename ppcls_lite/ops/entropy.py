"""Cross entropy of pixels as a layer, which the CPU kernels can replace."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn


class PixelEntropy(nn.Layer):
    """-log p of each pixel's class, p being the softmax of its logits over the classes."""

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """logits (N, C, H, W) float32, classes (N, H, W) int64 from 0 to C - 1 -> (N, H, W)."""
        options = {"axis": 1, "reduction": "none"}
        return F.cross_entropy(logits, classes.unsqueeze(1), **options).squeeze(1)
