"""The network as it ships, and its program for Paddle Inference.

Read before: ../models/backbone.py (`outputs`, `deployed`). Read next: export.py, graph_forward.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.spec import LOGITS

STEM = "inference"


class Shipped(nn.Layer):
    """The network as it is exported: what it deploys, as its post-processing wants to see it.

    A network that does not say what it deploys is a classifier, whose logits are.

    Attributes:
        outputs: the names of what it gives.
        activation: what its class scores go through before; `None`: nothing.
    """

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model
        self.activation: Callable[[Tensor], Tensor] | None = None
        self.outputs: tuple[str, ...] = tuple(getattr(model, "outputs", LOGITS))
        self._deployed = getattr(model, "deployed", self._logits)

    def coarsen(self) -> None:
        """Give class scores as the network has them before its last enlargement.

        Raises UserError for a network that has none.
        """
        coarse = getattr(self.model, "coarse", None)
        if coarse is None:
            raise UserError(
                "Infer.PostProcess: asks for the scores before the last enlargement (output: "
                f"coarse), but {type(self.model).__name__} has none: leave it out"
            )
        self._deployed = coarse

    def forward(self, image: Tensor) -> list[Tensor]:
        outputs = self._deployed(image)
        return outputs if self.activation is None else [self.activation(o) for o in outputs]

    def _logits(self, image: Tensor) -> list[Tensor]:
        outputs = self.model(image)
        return [outputs["logits"] if isinstance(outputs, dict) else outputs]  # (N, classes)

    @paddle.no_grad()
    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to its outputs, (N, ...) each: an engine for a checkpoint."""
        return [output.numpy() for output in self(paddle.to_tensor(inputs))]

    def reparameterize(self) -> int:
        """Merge the network's branches, if it has any; returns how many."""
        merge = getattr(self.model, "reparameterize", None)
        return int(merge() or 0) if merge else 0


def save_program(shipped: Shipped, folder: Path, shape: Sequence[int]) -> None:
    """Write `inference.json` and `inference.pdiparams` for images of `shape` (C, H, W)."""
    free = [None if edge == -1 else edge for edge in shape]
    inputs = [paddle.static.InputSpec([None, *free], "float32", name="image")]
    program = paddle.jit.to_static(shipped, input_spec=inputs, full_graph=True)
    paddle.jit.save(program, str(folder / STEM))
    (folder / f"{STEM}.pdiparams.info").unlink(missing_ok=True)  # names, only for training on
