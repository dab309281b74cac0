"""The loss of a recipe: the terms of `Loss.Train` or `Loss.Eval` and their sum.

Read next: cross_entropy.py, ../tasks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddle import Tensor, nn

from ppcls_lite.errors import UserError


class CombinedLoss(nn.Layer):
    """Calls each loss on the same outputs and adds up all their terms under the key `loss`.

    A term's name that is taken already gets a number: `CELoss`, `CELoss_1`.
    """

    def __init__(self, losses: Sequence[nn.Layer]) -> None:
        super().__init__()
        if not losses:
            raise UserError("expected at least one loss, found an empty list")
        self.losses = nn.LayerList(losses)

    def forward(self, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All terms, each already multiplied by its weight, and `loss`, their sum."""
        terms: dict[str, Tensor] = {}
        for index, loss in enumerate(self.losses):
            for name, value in loss(outputs, batch).items():
                terms[f"{name}_{index}" if name in terms else name] = value
        return terms | {"loss": sum(terms.values())}
