"""Optimizers as descriptions: what a recipe asks for, without Paddle until `build(model)`.

The rate comes from `lr`, a schedule, which the trainer asks before every update, so the built
optimizer holds a plain number: `optimizer.set_lr(description.lr(step))`. Read before: schedule.py.

Weight decay: `regularizer: {name: L2, coeff: 3e-5}` (or L1) adds the penalty's gradient, and
`weight_decay: 3e-5` is short for L2. A parameter that a network made with a regularizer of its own
keeps that one: PP-LCNet's BatchNorm parameters carry L2 with coefficient 0 and are never decayed.
More are left out by name (`no_weight_decay_name`, text parts separated by spaces) or by being
one-dimensional (`one_dim_param_no_weight_decay`: all biases and normalisation parameters).

Clipping, at most one: `clip_norm` bounds the norm of each parameter's gradient (as PaddleClas's
key of that name), `clip_global_norm` the norm of all gradients together, `clip_value` each entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    Ignored,
    NonNegativeFloat,
    PositiveFloat,
    Probability,
    RegularizerSpec,
    ScheduleSpec,
)
from ppcls_lite.errors import UserError

if TYPE_CHECKING:
    import paddle
    from paddle import nn


@register("regularizer")
class L1:
    """Penalty coeff * sum |w|."""

    def __init__(self, coeff: NonNegativeFloat) -> None:
        self.coeff = coeff

    def build(self) -> Any:
        """Paddle's form of it."""
        from paddle.regularizer import L1Decay

        return L1Decay(self.coeff)


@register("regularizer")
class L2:
    """Penalty coeff / 2 * sum w^2."""

    def __init__(self, coeff: NonNegativeFloat) -> None:
        self.coeff = coeff

    def build(self) -> Any:
        """Paddle's form of it."""
        from paddle.regularizer import L2Decay

        return L2Decay(self.coeff)


class _Decay:
    """Which penalty, and which parameters are exempt from it."""

    def __init__(
        self,
        regularizer: L1 | L2 | None,
        weight_decay: float | None,
        excluded_names: str | None,
        exclude_one_dim: bool,
    ) -> None:
        if regularizer is not None and weight_decay is not None:
            raise UserError("regularizer and weight_decay are both given: expected at most one")
        self.regularizer = L2(weight_decay) if weight_decay is not None else regularizer
        self.excluded_names = (excluded_names or "").split()
        self.exclude_one_dim = exclude_one_dim

    def exempt(self, named: list[tuple[str, paddle.Tensor]]) -> list[paddle.Tensor]:
        """The parameters that `no_weight_decay_name` or their one dimension leaves out."""
        for part in self.excluded_names:
            if not any(part in name for name, _ in named):
                raise UserError(
                    f"no_weight_decay_name: no parameter's name contains {part!r}; "
                    f"names look like {named[0][0]!r}"
                )
        return [
            parameter
            for name, parameter in named
            if (self.exclude_one_dim and parameter.ndim == 1)
            or any(part in name for part in self.excluded_names)
        ]

    def coupled(self, exempt: list[paddle.Tensor]) -> Any:
        """Paddle's regularizer, after marking the exempt parameters.

        Paddle lets a parameter's own regularizer win over the optimizer's, so that is where an
        exemption is noted.
        """
        for parameter in exempt:
            parameter.regularizer = L2(0.0).build()
        return self.regularizer.build() if self.regularizer else None


class _Clip:
    """At most one way of bounding gradients."""

    def __init__(
        self, clip_norm: float | None, clip_global_norm: float | None, clip_value: float | None
    ) -> None:
        bounds = {
            "clip_norm": clip_norm,
            "clip_global_norm": clip_global_norm,
            "clip_value": clip_value,
        }
        self.given = [(name, bound) for name, bound in bounds.items() if bound is not None]
        if len(self.given) > 1:
            names = " and ".join(name for name, _ in self.given)
            raise UserError(f"{names} are given together: expected at most one")

    def build(self) -> Any:
        """Paddle's form of it, or None."""
        if not self.given:
            return None
        from paddle import nn

        ((name, bound),) = self.given
        if name == "clip_value":
            return nn.ClipGradByValue(max=bound)
        kind = nn.ClipGradByNorm if name == "clip_norm" else nn.ClipGradByGlobalNorm
        return kind(clip_norm=bound)


class Optimizer(ABC):
    """A description: `lr` is the schedule, `build` makes Paddle's optimizer."""

    def __init__(self, lr: Callable[[int], float], decay: _Decay, clip: _Clip) -> None:
        self.lr = lr
        self.decay = decay
        self.clip = clip

    def build(self, *layers: nn.Layer) -> paddle.optimizer.Optimizer:
        """Paddle's optimizer of all trainable parameters of `layers`, at the rate of step 0.

        Raises UserError when there are none, or when an excluded name fits no parameter.
        """
        named = [pair for layer in layers for pair in layer.named_parameters()]
        named = [(name, parameter) for name, parameter in named if not parameter.stop_gradient]
        if not named:
            raise UserError("there is nothing to train: all parameters are frozen")
        common = {
            "learning_rate": self.lr(0),
            "parameters": [parameter for _, parameter in named],
            "grad_clip": self.clip.build(),
        }
        return self._build(common, self.decay.exempt(named))

    @abstractmethod
    def _build(
        self, common: dict[str, Any], exempt: list[paddle.Tensor]
    ) -> paddle.optimizer.Optimizer:
        """The Paddle optimizer with the arguments of its kind."""


@register("optimizer")
class SGD(Optimizer):
    """Stochastic gradient descent without momentum."""

    def __init__(
        self,
        lr: ScheduleSpec,
        regularizer: RegularizerSpec | None = None,
        weight_decay: NonNegativeFloat | None = None,
        multi_precision: bool = False,
        clip_norm: PositiveFloat | None = None,
        clip_global_norm: PositiveFloat | None = None,
        clip_value: PositiveFloat | None = None,
        no_weight_decay_name: str | None = None,
        one_dim_param_no_weight_decay: bool = False,
    ) -> None:
        decay = _Decay(
            regularizer, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay
        )
        super().__init__(lr, decay, _Clip(clip_norm, clip_global_norm, clip_value))
        self.multi_precision = multi_precision

    def _build(
        self, common: dict[str, Any], exempt: list[paddle.Tensor]
    ) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.SGD(
            weight_decay=self.decay.coupled(exempt),
            multi_precision=self.multi_precision,
            **common,
        )


@register("optimizer")
class Momentum(Optimizer):
    """Stochastic gradient descent with momentum: the paper's optimizer.

    `multi_precision` keeps float32 master weights where the weights are float16 (AMP O2).
    """

    def __init__(
        self,
        lr: ScheduleSpec,
        momentum: Probability = 0.9,
        use_nesterov: bool = False,
        regularizer: RegularizerSpec | None = None,
        weight_decay: NonNegativeFloat | None = None,
        multi_precision: bool = True,
        clip_norm: PositiveFloat | None = None,
        clip_global_norm: PositiveFloat | None = None,
        clip_value: PositiveFloat | None = None,
        no_weight_decay_name: str | None = None,
        one_dim_param_no_weight_decay: bool = False,
    ) -> None:
        decay = _Decay(
            regularizer, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay
        )
        super().__init__(lr, decay, _Clip(clip_norm, clip_global_norm, clip_value))
        self.momentum = _below_one("momentum", momentum)
        self.use_nesterov = use_nesterov
        self.multi_precision = multi_precision

    def _build(
        self, common: dict[str, Any], exempt: list[paddle.Tensor]
    ) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.Momentum(
            momentum=self.momentum,
            use_nesterov=self.use_nesterov,
            weight_decay=self.decay.coupled(exempt),
            multi_precision=self.multi_precision,
            **common,
        )


@register("optimizer")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv 1412.6980); its weight decay goes through the moments."""

    def __init__(
        self,
        lr: ScheduleSpec,
        beta1: Probability = 0.9,
        beta2: Probability = 0.999,
        epsilon: PositiveFloat = 1e-8,
        regularizer: RegularizerSpec | None = None,
        weight_decay: NonNegativeFloat | None = None,
        multi_precision: bool = False,
        clip_norm: PositiveFloat | None = None,
        clip_global_norm: PositiveFloat | None = None,
        clip_value: PositiveFloat | None = None,
        no_weight_decay_name: str | None = None,
        one_dim_param_no_weight_decay: bool = False,
        lazy_mode: Ignored = False,
    ) -> None:
        decay = _Decay(
            regularizer, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay
        )
        super().__init__(lr, decay, _Clip(clip_norm, clip_global_norm, clip_value))
        self.beta1 = _below_one("beta1", beta1)
        self.beta2 = _below_one("beta2", beta2)
        self.epsilon = epsilon
        self.multi_precision = multi_precision

    def _build(
        self, common: dict[str, Any], exempt: list[paddle.Tensor]
    ) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.Adam(
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=self.decay.coupled(exempt),
            multi_precision=self.multi_precision,
            **common,
        )


@register("optimizer")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101).

    The decay shrinks the weights directly, so it takes `weight_decay`, not a regularizer.
    Parameters that a network made with a zero regularizer of their own are exempt here too,
    other than in PaddleClas.
    """

    def __init__(
        self,
        lr: ScheduleSpec,
        beta1: Probability = 0.9,
        beta2: Probability = 0.999,
        epsilon: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
        multi_precision: bool = False,
        clip_norm: PositiveFloat | None = None,
        clip_global_norm: PositiveFloat | None = None,
        clip_value: PositiveFloat | None = None,
        no_weight_decay_name: str | None = None,
        one_dim_param_no_weight_decay: bool = False,
    ) -> None:
        decay = _Decay(None, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay)
        super().__init__(lr, decay, _Clip(clip_norm, clip_global_norm, clip_value))
        self.beta1 = _below_one("beta1", beta1)
        self.beta2 = _below_one("beta2", beta2)
        self.epsilon = epsilon
        self.weight_decay = weight_decay
        self.multi_precision = multi_precision

    def _build(
        self, common: dict[str, Any], exempt: list[paddle.Tensor]
    ) -> paddle.optimizer.Optimizer:
        import paddle

        names = {parameter.name for parameter in exempt}
        names |= {p.name for p in common["parameters"] if p.regularizer is not None}
        return paddle.optimizer.AdamW(
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            apply_decay_param_fun=lambda name: name not in names,
            multi_precision=self.multi_precision,
            **common,
        )


@register("optimizer")
class RMSProp(Optimizer):
    """Divides by a running mean of the gradient's size (Tieleman and Hinton 2012)."""

    def __init__(
        self,
        lr: ScheduleSpec,
        momentum: Probability = 0.0,
        rho: Probability = 0.95,
        epsilon: PositiveFloat = 1e-6,
        regularizer: RegularizerSpec | None = None,
        weight_decay: NonNegativeFloat | None = None,
        clip_norm: PositiveFloat | None = None,
        clip_global_norm: PositiveFloat | None = None,
        clip_value: PositiveFloat | None = None,
        no_weight_decay_name: str | None = None,
        one_dim_param_no_weight_decay: bool = False,
        multi_precision: Ignored = False,
    ) -> None:
        decay = _Decay(
            regularizer, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay
        )
        super().__init__(lr, decay, _Clip(clip_norm, clip_global_norm, clip_value))
        self.momentum = _below_one("momentum", momentum)
        self.rho = _below_one("rho", rho)
        self.epsilon = epsilon

    def _build(
        self, common: dict[str, Any], exempt: list[paddle.Tensor]
    ) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.RMSProp(
            momentum=self.momentum,
            rho=self.rho,
            epsilon=self.epsilon,
            weight_decay=self.decay.coupled(exempt),
            **common,
        )


def _below_one(name: str, value: float) -> float:
    if value >= 1:
        raise UserError(f"{name}: expected less than 1, found {value:g}")
    return value
