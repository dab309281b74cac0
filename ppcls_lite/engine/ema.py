"""The exponential moving average of a network's weights (Polyak and Juditsky, 1992).

After every update `average = decay * average + (1 - decay) * weight`; running statistics of batch
normalisation are copied, since they are averages already. After n updates the initial weights
still count by decay^n. With the warm-up the decay of update n is `min(decay, (1 + n) / (10 + n))`,
so that they are forgotten soon; a short run needs it, and a long one may choose how the decay grows
(`warmup_power`, `warmup_gamma`). `CorrectedAverage` begins with nothing
instead, as Adam's moments do.
Read next: trainer.py, which evaluates both networks and saves both.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import nn

from ppcls_lite.engine import checkpoint
from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")

FORGOTTEN = 0.01  # what of the initial weights may be left without a warm-up


def needs_warmup(decay: float, updates: int) -> bool:
    """Whether a run of `updates` ends with an average that is still full of initial weights."""
    return decay**updates > FORGOTTEN


class ExponentialAverage:
    """Averages the weights of `model`, in float32 whatever the network's own type.

    decay: 0..1; `use_warmup` lets it grow from 0.1 to that, or with `warmup_power` from 0, as
        1 - (1 + n / `warmup_gamma`)^-power after n updates.
    keeps_warmup: whether a run that is resumed goes on as it began instead of by `use_warmup`.
    better_ships: whether each evaluation decides if the average or the network itself `ships`, is
        what `.pdparams` hold; else the average does.
    restart_after: updates after which the average begins anew, over and over.
    """

    def __init__(
        self,
        model: nn.Layer,
        decay: float = 0.9999,
        use_warmup: bool = False,
        *,
        keeps_warmup: bool = False,
        better_ships: bool = False,
        restart_after: int | None = None,
        warmup_power: float | None = None,
        warmup_gamma: float = 1.0,
    ) -> None:
        self.model, self.restart_after = model, restart_after
        self.warmup_power, self.warmup_gamma = warmup_power, warmup_gamma
        self.decay, self.use_warmup, self.keeps_warmup = decay, use_warmup, keeps_warmup
        self.better_ships, self.ships = better_ships, True
        self.updates = 0
        # Paddle makes the running statistics parameters too, which no gradient reaches
        self._learnt = {n for n, p in model.named_parameters() if not p.stop_gradient}
        self._averages: dict[str, paddle.Tensor] = {}
        self.restart()

    @paddle.no_grad()
    def restart(self) -> None:
        """Begin anew with the network's present weights."""
        self.updates = 0
        self._averages = {n: _exact(t).clone() for n, t in self.model.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the weights after an update."""
        if self.updates == self.restart_after:
            self.restart()
        decay = self._decay(self.updates)
        for name, tensor in self.model.state_dict().items():
            if name in self._learnt:
                self._averages[name].lerp_(_exact(tensor), 1 - decay)
            else:
                paddle.assign(_exact(tensor), self._averages[name])
        self.updates += 1

    def weights(self) -> dict[str, paddle.Tensor]:
        """What the average says that the network's weights are."""
        return self._averages

    def _decay(self, updates: int) -> float:
        """Of the update after so many ones."""
        if not self.use_warmup:
            return self.decay
        grown = (1 + updates) / (10 + updates)
        if self.warmup_power is not None:
            grown = 1 - (1 + updates / self.warmup_gamma) ** -self.warmup_power
        return min(self.decay, grown)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While the block runs, the network has the averaged weights; afterwards its own again."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        _fill(self.model, self.weights())
        try:
            yield
        finally:
            _fill(self.model, own)

    def state(self) -> dict[str, Any]:
        """The averaged weights under the network's names, and how they came about."""
        arrays = {name: tensor.numpy() for name, tensor in self.weights().items()}
        facts = {"updates": self.updates, "use_warmup": self.use_warmup, "ships": self.ships}
        return {"weights": arrays, **facts}

    def load_state(self, saved: dict[str, Any], source: str) -> None:
        """Continue with `saved`; raises `UserError` if it is another network's."""
        checkpoint.require_same(self._averages, saved["weights"], source)
        for name, tensor in self._averages.items():
            tensor.set_value(saved["weights"][name])
        self.updates = saved["updates"]
        self.ships = saved.get("ships", True) or not self.better_ships
        warmup = bool(saved.get("use_warmup", self.use_warmup))  # older states do not say
        if self.keeps_warmup and warmup != self.use_warmup:
            self.use_warmup = warmup
            how = "with" if warmup else "without"
            logger.info(
                f"EMA: {source} was averaged {how} a warm-up, so it goes on {how} one although the "
                "number of epochs has changed (unless EMA.use_warmup says otherwise)"
            )


class CorrectedAverage(ExponentialAverage):
    """An average that begins with nothing, as PaddleDetection's of the type "threshold".

    After n updates the sum of what the weights count is 1 - decay^n, with the decay of the last
    one, and the average is divided by it. The decay always grows; running statistics are averaged
    as weights are. Its state also has the `sums` before the division.
    """

    @paddle.no_grad()
    def restart(self) -> None:
        """Begin anew with nothing; until the next update the network's own weights stand for it."""
        super().restart()
        self.use_warmup = True
        self._learnt = set(self._averages)  # statistics as well
        for average in self._averages.values():
            average.zero_()

    @paddle.no_grad()
    def weights(self) -> dict[str, paddle.Tensor]:
        if self.updates == 0:
            return {name: _exact(tensor) for name, tensor in self.model.state_dict().items()}
        whole = 1 - self._decay(self.updates - 1) ** self.updates
        return {name: tensor / whole for name, tensor in self._averages.items()}

    def state(self) -> dict[str, Any]:
        sums = {name: tensor.numpy() for name, tensor in self._averages.items()}
        return super().state() | {"sums": sums}

    def load_state(self, saved: dict[str, Any], source: str) -> None:
        if "sums" not in saved:
            raise UserError(
                f"{source} was averaged in another way: resume it with the recipe's former "
                "EMA.type, or start a new run from its weights"
            )
        super().load_state(saved | {"weights": saved["sums"]}, source)


def _exact(tensor: paddle.Tensor) -> paddle.Tensor:
    """`tensor` in float32 if its type is a shorter one."""
    short = tensor.dtype in (paddle.float16, paddle.bfloat16)
    return tensor.detach().astype("float32") if short else tensor.detach()


@paddle.no_grad()
def _fill(model: nn.Layer, values: dict[str, paddle.Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        paddle.assign(values[name].astype(tensor.dtype), tensor)
