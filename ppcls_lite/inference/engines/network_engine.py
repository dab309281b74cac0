"""A network that is not exported, run by Paddle operation by operation.

For the predictions of a checkpoint; an exported program is faster. Read next: paddle_engine.py.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn


class NetworkEngine:
    """Runs `network`, whose only output are logits, in evaluation mode."""

    def __init__(self, network: nn.Layer) -> None:
        network.eval()
        self._network = network

    @paddle.no_grad()
    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to logits (N, class_num)."""
        return [self._network(paddle.to_tensor(inputs)).numpy()]
