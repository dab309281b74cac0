"""Mixed precision: forward passes in float16 or bfloat16, with the loss scaled against underflow.

Level O1 casts the inputs of single operations (weights stay float32), O2 keeps the weights
themselves in the short type beside exact master weights in the optimizer (Micikevicius et al.,
2018, https://arxiv.org/abs/1710.03740). An update whose gradients are infinite or NaN is skipped.
Paddle 3.3.1 can do all that on a GPU only; on a CPU a run computes in float32 and says so.
Read next: trainer.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import paddle
from paddle import nn

from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")


class Scaler(Protocol):
    """What is used of `paddle.amp.GradScaler`."""

    def scale(self, var: paddle.Tensor) -> paddle.Tensor: ...
    def step(self, optimizer: paddle.optimizer.Optimizer) -> None: ...
    def update(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Precision:
    """How an update computes. Without arguments: in float32, every update is made.

    `cast` makes the context of forward passes, `test_cast` that of evaluations. With a `scaler`,
    updates with gradients that are not finite are skipped; `max_skipped` in a row raise
    `UserError`.
    """

    def __init__(
        self,
        cast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        scaler: Scaler | None = None,
        test_cast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        max_skipped: int = 50,
    ) -> None:
        self.cast, self.test_cast, self.scaler = cast, test_cast, scaler
        self.max_skipped = max_skipped
        self.skipped, self.skipped_in_row = 0, 0  # since the run began

    def backward(self, loss: paddle.Tensor) -> None:
        """Gradients of `loss`, times the scale."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Update the weights; False if it was skipped, because a gradient is not finite."""
        if self.scaler is None:
            optimizer.step()
            return True
        self.scaler.step(optimizer)
        self.scaler.update()
        # Paddle 3.3.1 has no public way to ask. Reading it costs nothing more: update() has waited.
        if not bool(self.scaler._cache_found_inf):  # type: ignore[attr-defined]
            self.skipped_in_row = 0
            return True
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row >= self.max_skipped:
            raise UserError(self._advice())
        return False

    def state(self) -> dict[str, Any] | None:
        """The scaler's state and the counts, as plain data; None in float32."""
        if self.scaler is None:
            return None
        counts = {"skipped": self.skipped, "skipped_in_row": self.skipped_in_row}
        return {"scaler": dict(self.scaler.state_dict()), **counts}

    def load_state(self, saved: dict[str, Any] | None) -> None:
        """Continue with `saved`; a checkpoint in float32 has none, and the scale starts anew."""
        if self.scaler is None or saved is None:
            return
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        self.skipped, self.skipped_in_row = saved["skipped"], saved["skipped_in_row"]

    def _advice(self) -> str:
        scale = self.scaler.state_dict().get("scale") if self.scaler else None
        now = f" (the loss scale is {float(scale[0]):g} now)" if scale is not None else ""
        return (
            f"Training stopped: {self.skipped_in_row} updates in a row were skipped, because their "
            f"gradients were NaN or infinite{now}. Where to look:\n"
            "- whether it happens in float32 too: -o AMP.use_amp=False shows the loss that fails;\n"
            "- the scale: with float16 set AMP.use_dynamic_loss_scaling, or a smaller "
            "AMP.scale_loss; or use AMP.dtype: bfloat16, which needs none;\n"
            "- the learning rate: try a tenth of it, a longer warm-up or gradient clipping;\n"
            "- the data: an image or a transform that gives NaN.\n"
            "The last checkpoint is from before, or in the middle of, these updates: none of them "
            "changed a weight."
        )


def mixed(
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    *,
    level: str = "O1",
    dtype: str = "float16",
    scale_loss: float = 1.0,
    use_dynamic_loss_scaling: bool = False,
    use_promote: bool = False,
    use_fp16_test: bool = False,
    max_skipped: int = 50,
) -> Precision:
    """The precision of the section `AMP`; level O2 changes `model` and `optimizer` in place.

    bfloat16 has float32's range: its scale is 1, and only whether gradients are finite is checked.
    """
    if paddle.get_device().startswith("cpu"):
        logger.info(
            "AMP has no effect on a CPU (Paddle casts on GPUs only): this run computes in float32"
        )
        return Precision()
    if level == "O2":
        paddle.amp.decorate(models=model, optimizers=optimizer, level=level, dtype=dtype)
    if dtype == "bfloat16":
        scale_loss, use_dynamic_loss_scaling = 1.0, False
    scaler = paddle.amp.GradScaler(
        init_loss_scaling=scale_loss, use_dynamic_loss_scaling=use_dynamic_loss_scaling
    )
    cast = partial(paddle.amp.auto_cast, level=level, dtype=dtype, use_promote=use_promote)
    in_test = use_fp16_test or level == "O2"  # short weights do not fit float32 images
    logger.info(f"AMP: level {level}, {dtype}, evaluation in {dtype if in_test else 'float32'}")
    return Precision(cast, scaler, cast if in_test else contextlib.nullcontext, max_skipped)
