"""How Lion and Muon move weights: Paddle optimizers of our own, made by lion_muon.py.

Both decay weights directly, `w *= 1 - rate * decay`, before they move them. What they keep for each
parameter are ordinary slots of Paddle's optimizers, so that a checkpoint holds them as it does
Adam's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import paddle
from paddle import Tensor

ITERATIONS = 5  # of Newton and Schulz
# Of a polynomial that drives singular values to about 1 (0.7 to 1.2) in five steps: Keller Jordan,
# "Muon: an optimizer for hidden layers in neural networks" (2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class _Rule(paddle.optimizer.Optimizer):
    """A rule for one parameter at a time. `undecayed`: Paddle's names of exempt parameters."""

    slots: tuple[str, ...] = ()  # of the shape of the parameter

    def __init__(
        self,
        learning_rate: float,
        parameters: list[Tensor],
        weight_decay: float,
        undecayed: Collection[str],
        grad_clip: Any,
        multi_precision: bool,
    ) -> None:
        super().__init__(learning_rate, parameters, None, grad_clip)
        self._decay, self._undecayed = weight_decay, frozenset(undecayed)
        self._multi_precision, self._master_weights = multi_precision, {}

    def _create_accumulators(self, block: Any, parameters: list[Tensor]) -> None:
        for parameter in parameters:
            if parameter.name in self._already_create_accumulator:
                continue
            short = self._is_dtype_fp16_or_bf16(parameter.dtype)
            exact = short and self._multi_precision
            owner = self._create_master_weight(parameter) if exact else parameter
            for slot in self.slots:
                self._add_accumulator(slot, owner)
            self._add_accumulator("steps", owner, shape=[1])
            self._already_create_accumulator.add(parameter.name)

    @paddle.no_grad()
    def _append_optimize_op(self, block: Any, pair: tuple[Tensor, Tensor]) -> None:
        parameter, gradient = pair
        master = self._master_weights.get(parameter.name)
        weight = parameter if master is None else master
        rate = self.get_lr() * parameter.optimize_attr["learning_rate"]
        if parameter.name not in self._undecayed:
            weight.scale_(1 - rate * self._decay)
        kept = [self._get_accumulator_master(slot, parameter) for slot in (*self.slots, "steps")]
        kept[-1].add_(paddle.ones([1]))
        self._move(parameter, weight, gradient.astype(weight.dtype), rate, *kept)
        if master is not None:
            paddle.assign(master.astype(parameter.dtype), parameter)

    def _move(
        self, parameter: Tensor, weight: Tensor, gradient: Tensor, rate: float, *kept: Tensor
    ) -> None:
        raise NotImplementedError


class Lion(_Rule):
    """Steps by the sign of a mean of gradient and momentum: lion_muon.Lion."""

    slots = ("moment",)

    def __init__(self, *, beta1: float, beta2: float, **common: Any) -> None:
        super().__init__(**common)
        self._beta1, self._beta2 = beta1, beta2

    def _move(
        self,
        parameter: Tensor,
        weight: Tensor,
        gradient: Tensor,
        rate: float,
        moment: Tensor,
        steps: Tensor,
    ) -> None:
        weight.subtract_(rate * paddle.lerp(gradient, moment, self._beta1).sign())
        moment.lerp_(gradient, 1 - self._beta2)


class Muon(_Rule):
    """Steps by the orthogonal matrix that is nearest to the momentum: lion_muon.Muon.

    is_matrix: which parameters; the others take AdamW's step.
    """

    slots = ("moment1", "moment2")

    def __init__(
        self,
        *,
        momentum: float,
        use_nesterov: bool,
        beta1: float,
        beta2: float,
        epsilon: float,
        is_matrix: Callable[[Tensor], bool],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self._momentum, self._nesterov = momentum, use_nesterov
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._is_matrix = is_matrix

    def _move(
        self,
        parameter: Tensor,
        weight: Tensor,
        gradient: Tensor,
        rate: float,
        moment1: Tensor,
        moment2: Tensor,
        steps: Tensor,
    ) -> None:
        if self._is_matrix(parameter):
            moment1.lerp_(gradient, 1 - self._momentum)
            step = paddle.lerp(gradient, moment1, self._momentum) if self._nesterov else moment1
            matrix = step.reshape([step.shape[0], -1])
            scale = 0.2 * max(matrix.shape) ** 0.5
            weight.subtract_(rate * scale * orthogonal(matrix).reshape(step.shape))
            return
        moment1.lerp_(gradient, 1 - self._beta1)
        moment2.lerp_(gradient.square(), 1 - self._beta2)
        count = steps.item()
        mean, square = 1 - self._beta1**count, 1 - self._beta2**count
        weight.subtract_(
            (rate / mean) * moment1 / ((moment2 / square).sqrt() + self._epsilon),
        )


def orthogonal(matrix: Tensor) -> Tensor:
    """(rows, columns) -> the same shape, with the same singular vectors and values of about 1.

    Five iterations of Newton and Schulz on the matrix over its Frobenius norm.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.t()
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.t() if tall else x
