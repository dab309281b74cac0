"""Batch normalisation with the statistics of all ranks' images, where Paddle has no kernel for it.

Paddle's SyncBatchNorm runs on GPUs. Here the sums travel over the ranks' own connection, forward
and backward, so that ranks on CPUs train as one process with all of their images would.
Read before: distributed.py.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn.layer.norm import _BatchNormBase

from ppcls_lite.engine.distributed import World


class SyncedBatchNorm(_BatchNormBase):
    """`norm`, with its parameters and statistics, over the images of all ranks of `world`.

    As nn.BatchNorm1D and nn.BatchNorm2D, of inputs (N, C, ...); an evaluation needs no other rank.
    """

    def __init__(self, norm: _BatchNormBase, world: World) -> None:
        super().__init__(norm._num_features, norm._momentum, norm._epsilon)
        self.world = world
        self._use_global_stats = norm._use_global_stats
        self.weight, self.bias = norm.weight, norm.bias
        self._mean, self._variance = norm._mean, norm._variance
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self._use_global_stats:
            state = (self._mean, self._variance, self.weight, self.bias)
            return F.batch_norm(x, *state, training=False, epsilon=self._epsilon)
        values = x.astype("float32")
        axes = [axis for axis in range(x.ndim) if axis != 1]
        # Two messages: a variance from sums of squares would lose what a large mean covers.
        own = paddle.concat([values.sum(axes), paddle.full([1], x.size / x.shape[1])])
        sums = _Total.apply(own, self.world)
        count = sums[-1]
        mean = sums[:-1] / count
        shape = [1, -1, *[1] * (x.ndim - 2)]
        centred = values - mean.reshape(shape)
        variance = _Total.apply(centred.square().sum(axes), self.world) / count
        self._remember(mean, variance)
        scale = (variance + self._epsilon).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        found = centred * scale.reshape(shape)
        if self.bias is not None:
            found = found + self.bias.reshape(shape)
        return found.astype(x.dtype)

    @paddle.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        kept = self._momentum
        for old, new in ((self._mean, mean), (self._variance, variance)):
            old.set_value(kept * old + (1 - kept) * new.detach())


class _Total(PyLayer):
    """The sum over the ranks; what each rank's part of it contributes to all their losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.total(values.clone())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return ctx.world.total(slope.clone())


def synchronized(model: nn.Layer, world: World) -> nn.Layer:
    """`model` with every batch normalisation over the images of all ranks, in place.

    Names, parameters and statistics stay. Every rank calls the network equally often.
    """
    made: dict[int, SyncedBatchNorm] = {}
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent._sub_layers.items()):  # a layer of two names has both
            if isinstance(layer, _BatchNormBase):
                if id(layer) not in made:
                    made[id(layer)] = SyncedBatchNorm(layer, world)
                parent.add_sublayer(name, made[id(layer)])
    return model
