"""A convolution and the normalisation behind it, whose values are formed where they are read.

`conv_norm` computes the convolution and the batch's statistics. What normalisation and activation
make of them is a `Deferred`: the next `conv_norm` forms the values while it reads its input,
forward and backward, so that an activation is written once and read once, and of each layer one
tensor is kept. Anything else asks for the `values`. Small planes, which lie in the cache anyway,
are formed in the same call. In the graph of gradients the convolution's
output stands for those values: the gradient that arrives there is theirs, and each use leaves the
gradients of scale and shift, from which the convolution's backward pass goes on to its own output
(Ioffe and Szegedy 2015, section 3). Read next: source/norm.h; layers.py, which knows what follows
what.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.library import DenseShape, DepthwiseShape, NormShape
from ppcls_lite.kernels.ops import ACTIVATIONS, dense_conv, depthwise_conv, norm_act
from ppcls_lite.kernels.tensors import (
    Window,
    addresses,
    are_plain,
    checked_gradient,
    chosen,
    dense_shape_of,
    depthwise_shape_of,
    new_tensor,
    norm_shape_of,
    once,
    wanted_by,
    without_gaps,
)

SMALL = 32  # pixels; of smaller planes the values are formed at once: in pieces it takes longer
Norm = tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[float, float, str | None]]


@dataclass
class Statistics:
    """A normalisation of one batch, without the tensor that it is of: the graph holds that."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse: Tensor
    shape: NormShape
    gradients: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of each use
    uses: int = 0

    def vectors(self) -> tuple[Tensor, ...]:
        return self.scale, self.shift, self.mean, self.inverse

    def summed(self) -> tuple[Tensor, Tensor]:
        """The gradients of scale and shift from all uses."""
        first, *others = self.gradients
        for scale, shift in others:
            first = first[0] + scale, first[1] + shift
        return first

    def used(self, gradient: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        """Note the gradients from one use; what it returns. Paddle adds several in place."""
        self.gradients.append((scale, shift))
        all_three = gradient, scale, shift
        return all_three if self.uses == 1 else tuple(one.clone() for one in all_three)


@dataclass
class Deferred:
    """What a normalisation and its activation make of `raw`, a convolution's output."""

    raw: Tensor
    of: Statistics
    library: ctypes.CDLL

    def values(self) -> Tensor:
        """(N, C, H, W)."""
        self.of.uses += 1
        inputs = self.raw, self.of.scale, self.of.shift
        return once(_Values.apply(*inputs, self.of, self.library))


def values(x: Tensor | Deferred) -> Tensor:
    """`x` as a tensor."""
    return x.values() if isinstance(x, Deferred) else x


def raw_of(x: Tensor | Deferred) -> Tensor:
    """The tensor that is in memory."""
    return x.raw if isinstance(x, Deferred) else x


def used(x: Tensor | Deferred) -> tuple[Statistics | None, tuple[Tensor | None, Tensor | None]]:
    """The normalisation that has yet to make `x`, with scale and shift; its use is noted."""
    if not isinstance(x, Deferred):
        return None, (None, None)
    x.of.uses += 1
    return x.of, (x.of.scale, x.of.shift)


def conv_norm(
    x: Tensor | Deferred,
    weight: Tensor,
    window: Window,
    depthwise: bool,
    norm: Norm,
    library: ctypes.CDLL,
    bias: Tensor | None = None,
) -> Tensor | Deferred:
    """A convolution and the normalisation behind it; a tensor where the kernels do not know them.

    `weight` is that of `depthwise_conv` or of `dense_conv`; `norm`: scale, shift, running and
    options of `norm_act`, as `bias` is.
    """
    scale, shift, running, (epsilon, momentum, act) = norm
    vectors = (scale, shift, *running) if bias is None else (scale, shift, *running, bias)
    read = raw_of(x)
    shape = norm_shape = None
    if are_plain(read, weight, *vectors) and all(v.is_contiguous() for v in vectors):
        shape_of = depthwise_shape_of if depthwise else dense_shape_of
        shape = shape_of(tuple(read.shape), tuple(weight.shape), window)
        if shape:
            y = shape.n, weight.shape[0], shape.out_h, shape.out_w
            sizes = y, *(tuple(v.shape) for v in vectors)
            norm_shape = norm_shape_of(sizes, epsilon, momentum, ACTIVATIONS[act])
    if not norm_shape:
        conv = depthwise_conv if depthwise else dense_conv
        return norm_act(conv(values(x), weight, window, library), *norm, library, bias)
    channels = [norm_shape.c]
    made = Statistics(scale, shift, new_tensor(channels), new_tensor(channels), norm_shape)
    given, learnt = used(x)
    stored = norm_shape.size < SMALL
    own = (scale, shift) if stored else (None, None)
    y = _ConvNorm.apply(read, weight, bias, *learnt, *own, given, made, running, shape, library)
    return once(y) if stored else Deferred(once(y), made, library)


def input_norm(given: Statistics | None) -> tuple[tuple[Tensor | None, ...], NormShape | None]:
    """What C++ is told of the normalisation that has yet to make an input; nothing if none has."""
    return ((None,) * 4, None) if given is None else (given.vectors(), given.shape)


def new_learnt(given: Statistics | None) -> tuple[Tensor | None, Tensor | None]:
    """Room for the gradients of scale and shift of that normalisation; nothing if there is none."""
    if given is None:
        return None, None
    return new_tensor(given.scale.shape), new_tensor(given.shift.shape)


def handed_on(
    given: Statistics | None, dx: Tensor, learnt: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor | None, ...]:
    """What a use of an input returns: its gradient, with those of scale and shift if it has any."""
    return (dx,) if given is None else given.used(dx, *learnt)


class _ConvNorm(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        own_scale: Tensor | None,
        own_shift: Tensor | None,
        given: Statistics | None,
        made: Statistics,
        running: tuple[Tensor, Tensor],
        shape: DepthwiseShape | DenseShape,
        library: Any,
    ) -> Tensor:
        """`scale` and `shift` are those of the input's normalisation, `given`.

        With its own it returns what they make of the convolution's output, without that output.
        """
        inputs = x, weight, bias, scale, shift, own_scale, own_shift
        wanted = wanted_by(*(one for one in inputs if one is not None))
        x, weight = without_gaps(x), without_gaps(weight)
        y = new_tensor([shape.n, made.shape.c, shape.out_h, shape.out_w])
        depthwise = isinstance(shape, DepthwiseShape)
        function = library.depthwise_norm_forward if depthwise else library.dense_norm_forward
        vectors, norm = input_norm(given)
        results = y, made.mean, made.inverse
        function(*addresses(x, *vectors, weight, *running, *results), shape, made.shape, norm)
        if bias is not None:
            running[0].add_((1 - made.shape.momentum) * bias)
        stored = own_scale is not None
        ctx.rest = given, made, shape, library, wanted, bias is not None, stored
        if not stored:
            # y would hold the graph that holds y
            ctx.save_for_backward(x, weight, y.detach())
            return y
        ctx.save_for_backward(x, weight, y)
        z = new_tensor(y.shape)
        library.norm_values(*addresses(y, *made.vectors(), z), made.shape)
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        given, made, shape, library, wanted, has_bias, stored = ctx.rest
        x, weight, y = ctx.saved_tensor()
        dz = checked_gradient(dz, y.shape)
        first = 2 + has_bias  # of the input's scale and shift
        needed = wanted[0] or (given is not None and any(wanted[first : first + 2]))
        dx, dweight = new_tensor(x.shape) if needed else None, new_tensor(weight.shape)
        learnt: list[Tensor] = []
        if given is not None:
            learnt = [new_tensor(given.scale.shape), new_tensor(given.shift.shape)]
        depthwise = isinstance(shape, DepthwiseShape)
        function = library.depthwise_norm_backward if depthwise else library.dense_norm_backward
        vectors, norm = input_norm(given)
        tensors = (x, *vectors, weight, made.scale, made.shift, y, made.mean, made.inverse)
        results = dx, dweight, *(learnt or (None, None))
        if stored:
            sums = new_tensor(made.scale.shape), new_tensor(made.shift.shape)
            library.norm_sums(*addresses(y, *made.vectors(), dz, *sums), made.shape)
        else:
            sums = made.summed()  # held, like all of them, until the function returns
        function(*addresses(*tensors, dz, *sums, *results), shape, made.shape, norm)
        if given is not None and needed:
            dx, *learnt = given.used(dx, *learnt)
        dbias = [paddle.zeros([made.shape.c])] if has_bias else []
        return chosen(wanted, dx, dweight, *dbias, *learnt, *(sums if stored else ()))


class _Values(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, scale: Tensor, shift: Tensor, of: Statistics, library: Any
    ) -> Tensor:
        ctx.rest = of, library, wanted_by(raw, scale, shift)
        ctx.save_for_backward(raw)
        z = new_tensor(raw.shape)
        library.norm_values(*addresses(raw, *of.vectors(), z), of.shape)
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        of, library, wanted = ctx.rest
        (raw,) = ctx.saved_tensor()
        dz = checked_gradient(dz, raw.shape)
        dscale, dshift = new_tensor(of.scale.shape), new_tensor(of.shift.shape)
        library.norm_sums(*addresses(raw, *of.vectors(), dz, dscale, dshift), of.shape)
        return chosen(wanted, *of.used(dz, dscale, dshift))
