"""Lion and Muon, which Paddle does not have, as descriptions. Read before: optimizers.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeFloat, PositiveFloat, Probability
from ppcls_lite.optim.optimizers import Bounded, MasterWeights, require_name

if TYPE_CHECKING:
    import paddle

    from ppcls_lite.optim.optimizers import Named


@dataclass
class _Decoupled(Bounded, MasterWeights):
    """Decays weights directly, except those that AdamW leaves out as well."""

    _: KW_ONLY
    weight_decay: NonNegativeFloat = 0.01

    def rule(self) -> type[paddle.optimizer.Optimizer]:
        from ppcls_lite.optim import rules

        return getattr(rules, type(self).__name__)

    def options(self, named: Named) -> dict[str, Any]:
        exempt = {parameter.name for parameter in self.exempt(named)}
        exempt |= {p.name for _, p in named if p.regularizer is not None}
        given = super().options(named)
        return given | {"weight_decay": self.weight_decay, "undecayed": exempt}


@register("optimizer")
@dataclass
class Lion(_Decoupled):
    """Moves every weight by the rate itself, up or down: half of Adam's memory.

    Chen et al. 2023, arXiv 2302.06675, algorithm 2: the sign of beta1 * momentum + (1 - beta1) *
    gradient; then the momentum is averaged with beta2. Its rate is a third to a tenth of AdamW's,
    its weight decay as much larger (section 5 there).
    """

    beta1: Probability = 0.9
    beta2: Probability = 0.99

    below_one = ("beta1", "beta2")


@register("optimizer")
@dataclass
class Muon(_Decoupled):
    """Moves matrices by the orthogonal matrix nearest to their momentum, the rest by AdamW.

    Jordan 2024, with the length of Liu et al. 2025 (arXiv 2502.16982, section 2.2): 0.2 times the
    root of the longer side, so that rate and weight decay are AdamW's. A convolution's kernel is
    the matrix (out, in * h * w). AdamW moves what is no matrix (biases, normalisations, depthwise
    kernels) and the parameters whose names contain a part of `adamw_name` (separated by spaces),
    as the classifier. The last layer is usually one of them.
    """

    momentum: Probability = 0.95
    use_nesterov: bool = True
    beta1: Probability = 0.9
    beta2: Probability = 0.95
    epsilon: PositiveFloat = 1e-8
    _: KW_ONLY
    adamw_name: str | None = None

    below_one = ("momentum", "beta1", "beta2")

    def options(self, named: Named) -> dict[str, Any]:
        parts = (self.adamw_name or "").split()
        for part in parts:
            require_name("adamw_name", part, named)
        matrices = {
            parameter.name
            for name, parameter in named
            if parameter.ndim >= 2
            and parameter.size > parameter.shape[0]
            and not (parameter.ndim == 4 and parameter.shape[1] == 1)
            and not any(part in name for part in parts)
        }
        return super().options(named) | {"is_matrix": lambda p: p.name in matrices}
