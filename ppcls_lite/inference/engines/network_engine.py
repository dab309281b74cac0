"""A network that is not exported, run by Paddle operation by operation.

For the predictions of a checkpoint; an exported program is faster. Read next: paddle_engine.py.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from ppcls_lite.inference.shipped import Shipped


class NetworkEngine:
    """Runs `network` in evaluation mode; `outputs` are the names of what it gives."""

    def __init__(self, network: nn.Layer) -> None:
        self._network = Shipped(network)
        self._network.eval()
        self.outputs = self._network.outputs

    @paddle.no_grad()
    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to what the network deploys, (N, ...) each."""
        return [output.numpy() for output in self._network(paddle.to_tensor(inputs))]
