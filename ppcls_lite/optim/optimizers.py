"""Optimizers as descriptions: what a recipe asks for, without Paddle until `build(model)`.

The rate comes from `lr`, a schedule, which the trainer asks before every update:
`optimizer.set_lr(description.lr(step))`. Read before: schedule.py.

Weight decay: `regularizer: {name: L2, coeff: 3e-5}` (or L1) adds the penalty's gradient, and
`weight_decay: 3e-5` is short for L2. A parameter that a network made with a regularizer of its own
keeps that one (PP-LCNet's BatchNorm parameters: L2 with coefficient 0). More are left out by name
(`no_weight_decay_name`, text parts separated by spaces) or by being one-dimensional
(`one_dim_param_no_weight_decay`).

Clipping, at most one: `clip_norm` bounds the norm of each parameter's gradient, `clip_global_norm`
the norm of all gradients together, `clip_value` each entry.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

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
from ppcls_lite.optim.layer_decay import decay_rates

if TYPE_CHECKING:
    import paddle
    from paddle import nn

    Named = list[tuple[str, paddle.Tensor]]


@dataclass
class _Penalty:
    coeff: NonNegativeFloat

    def build(self) -> Any:
        """Paddle's form of it."""
        import paddle

        return getattr(paddle.regularizer, f"{type(self).__name__}Decay")(self.coeff)


@register("regularizer")
class L1(_Penalty):
    """Penalty coeff * sum |w|."""


@register("regularizer")
class L2(_Penalty):
    """Penalty coeff / 2 * sum w^2."""


@dataclass
class Optimizer:
    """A description: `lr` is the schedule, `build` makes Paddle's optimizer.

    Paddle's class is that of the same name; it is given the fields that are not keyword-only as
    they are. below_one: those that must be less than 1.

    lr_mult: factors of the rate of parameters by parts of their names, of which the first that fits
    counts; 0 freezes. layer_decay: see `decay_rates`.
    """

    lr: ScheduleSpec
    _: KW_ONLY
    lr_mult: dict[str, NonNegativeFloat] | None = None
    layer_decay: Probability | None = None

    below_one: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in self.below_one:
            if getattr(self, name) >= 1:
                raise UserError(f"{name}: expected less than 1, found {getattr(self, name):g}")

    def build(self, *layers: nn.Layer) -> paddle.optimizer.Optimizer:
        """Paddle's optimizer of all trainable parameters of `layers`, at the rate of step 0.

        Raises UserError when there are none, or when a name fits no parameter.
        """
        named = [pair for layer in layers for pair in layer.named_parameters()]
        named = [(name, parameter) for name, parameter in named if not parameter.stop_gradient]
        if not named:
            raise UserError("there is nothing to train: all parameters are frozen")
        self._multiply(named)
        if self.layer_decay is not None:
            decay_rates(self.layer_decay, layers)
        parameters = [parameter for _, parameter in named]
        more = self.options(named)
        return self.rule()(learning_rate=self.lr(0), parameters=parameters, **more)

    def rule(self) -> type[paddle.optimizer.Optimizer]:
        """The class that moves the weights."""
        import paddle

        return getattr(paddle.optimizer, type(self).__name__)

    def _multiply(self, named: Named) -> None:
        """Give parameters the factors of `lr_mult`, times what their network gave them."""
        factors = self.lr_mult or {}
        for part in factors:
            require_name("lr_mult", part, named)
        for name, parameter in named:
            part = next((part for part in factors if part in name), None)
            if part is not None:
                parameter.optimize_attr["learning_rate"] *= factors[part]

    def options(self, named: Named) -> dict[str, Any]:
        """Further arguments of Paddle's class; `named` are the parameters with their names."""
        own = [field.name for field in fields(self) if not field.kw_only and field.name != "lr"]
        return {name: getattr(self, name) for name in own}

    def exempt(self, named: Named) -> list[paddle.Tensor]:
        """The parameters that weight decay leaves out."""
        return []


def require_name(key: str, part: str, named: Named) -> None:
    """Raise UserError unless some parameter's name contains `part`."""
    if not any(part in name for name, _ in named):
        raise UserError(
            f"{key}: no parameter's name contains {part!r}; names look like {named[0][0]!r}"
        )


@dataclass
class Penalized(Optimizer):
    """Weight decay as the gradient of a penalty."""

    _: KW_ONLY
    regularizer: RegularizerSpec | None = None
    weight_decay: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regularizer is not None and self.weight_decay is not None:
            raise UserError("regularizer and weight_decay are both given: expected at most one")

    def options(self, named: Named) -> dict[str, Any]:
        """Paddle lets a parameter's own regularizer win over the optimizer's, so that is where
        an exemption is noted.
        """
        for parameter in self.exempt(named):
            parameter.regularizer = L2(0.0).build()
        decay = self.regularizer if self.weight_decay is None else L2(self.weight_decay)
        return super().options(named) | {"weight_decay": decay.build() if decay else None}


@dataclass
class MasterWeights(Optimizer):
    """Float32 copies of the weights where these are float16 (AMP O2)."""

    _: KW_ONLY
    multi_precision: bool = False

    def options(self, named: Named) -> dict[str, Any]:
        return super().options(named) | {"multi_precision": self.multi_precision}


@dataclass
class Bounded(Optimizer):
    """Bounds on the gradients, and exemptions from weight decay."""

    _: KW_ONLY
    clip_norm: PositiveFloat | None = None
    clip_global_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    no_weight_decay_name: str | None = None
    one_dim_param_no_weight_decay: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("clip_norm", "clip_global_norm", "clip_value")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} are given together: expected at most one")

    def options(self, named: Named) -> dict[str, Any]:
        from paddle import nn

        clip = None
        if self.clip_value is not None:
            clip = nn.ClipGradByValue(max=self.clip_value)
        elif self.clip_norm is not None:
            clip = nn.ClipGradByNorm(clip_norm=self.clip_norm)
        elif self.clip_global_norm is not None:
            clip = nn.ClipGradByGlobalNorm(clip_norm=self.clip_global_norm)
        return super().options(named) | {"grad_clip": clip}

    def exempt(self, named: Named) -> list[paddle.Tensor]:
        parts = (self.no_weight_decay_name or "").split()
        for part in parts:
            require_name("no_weight_decay_name", part, named)
        return [
            parameter
            for name, parameter in named
            if (self.one_dim_param_no_weight_decay and parameter.ndim == 1)
            or any(part in name for part in parts)
        ]


@register("optimizer")
@dataclass
class SGD(Bounded, MasterWeights, Penalized):
    """Stochastic gradient descent without momentum."""


@register("optimizer")
@dataclass
class Momentum(Bounded, MasterWeights, Penalized):
    """Stochastic gradient descent with momentum: the paper's optimizer."""

    momentum: Probability = 0.9
    use_nesterov: bool = False
    _: KW_ONLY
    multi_precision: bool = True

    below_one = ("momentum",)


@dataclass
class _Moments(Bounded, MasterWeights):
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    epsilon: PositiveFloat = 1e-8

    below_one = ("beta1", "beta2")


@register("optimizer")
@dataclass
class Adam(_Moments, Penalized):
    """Adam (Kingma and Ba 2014, arXiv 1412.6980); its weight decay goes through the moments."""

    _: KW_ONLY
    lazy_mode: Ignored = False


@register("optimizer")
@dataclass
class AdamW(_Moments):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101).

    The decay shrinks the weights directly, so it takes `weight_decay`, not a regularizer. Other
    than in PaddleClas, parameters that a network made with a zero regularizer are exempt here too.
    """

    weight_decay: NonNegativeFloat = 0.01
    _: KW_ONLY
    clip_grad: Ignored = None  # PaddleClas's recipes have it, and its AdamW drops it

    def options(self, named: Named) -> dict[str, Any]:
        names = {parameter.name for parameter in self.exempt(named)}
        names |= {p.name for _, p in named if p.regularizer is not None}
        return super().options(named) | {"apply_decay_param_fun": lambda name: name not in names}


@register("optimizer")
@dataclass
class Lamb(Bounded, MasterWeights):
    """AdamW whose step is as long as each array's weights, for large batches.

    You et al. 2019, arXiv 1904.00962, algorithm 2. What is exempt from weight decay, as in AdamW,
    takes Adam's step.
    """

    beta1: Probability = 0.9
    beta2: Probability = 0.999
    epsilon: PositiveFloat = 1e-6
    _: KW_ONLY
    weight_decay: NonNegativeFloat = 0.01

    below_one = ("beta1", "beta2")

    def options(self, named: Named) -> dict[str, Any]:
        exempt = {parameter.name for parameter in self.exempt(named)}
        exempt |= {p.name for _, p in named if p.regularizer is not None}
        decay = {"lamb_weight_decay": self.weight_decay}
        return (
            super().options(named)
            | decay
            | {"exclude_from_weight_decay_fn": lambda parameter: parameter.name in exempt}
        )


@register("optimizer")
@dataclass
class RMSProp(Bounded, Penalized):
    """Divides by a running mean of the gradient's size (Tieleman and Hinton 2012)."""

    momentum: Probability = 0.0
    rho: Probability = 0.95
    epsilon: PositiveFloat = 1e-6
    _: KW_ONLY
    multi_precision: Ignored = False

    below_one = ("momentum", "rho")
