"""Channel attention: the planes of a tensor times gates that a small network makes of their means.

The planes may be `Deferred`: they are formed where they are read, forward and backward, and never
stored. Their gradient comes in two ways, by the product and by the means: the product notes its
part, and what made the means, whose turn in the backward pass comes later, forms the whole in one
pass over memory. Read next: source/attention.cpp; layers.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.deferred import (
    Deferred,
    Statistics,
    handed_on,
    input_norm,
    new_learnt,
    raw_of,
    used,
)
from ppcls_lite.kernels.library import PlanesShape
from ppcls_lite.kernels.tensors import (
    addresses,
    checked_gradient,
    chosen,
    new_tensor,
    once,
    wanted_by,
    without_gaps,
)


@dataclass
class _Product:
    """What the backward pass of the product leaves for that of the means."""

    gates: Tensor | None = None
    gradient: Tensor | None = None


def attended(
    x: Tensor | Deferred, gates_of: Callable[[Tensor], Tensor], library: ctypes.CDLL
) -> Tensor:
    """x (N, C, H, W), plain and with elements, times gates_of(its means (N, C, 1, 1))."""
    raw, (given, learnt) = without_gaps(raw_of(x)), used(x)
    n, c, height, width = raw.shape
    shape, product = PlanesShape(n, c, height * width), _Product()
    means = once(_Means.apply(raw, *learnt, given, product, shape, library))
    gates = gates_of(means).astype(raw.dtype)
    return once(_Scaled.apply(raw.detach(), gates, given, product, shape, library))


class _Means(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        given: Statistics | None,
        product: _Product,
        shape: PlanesShape,
        library: Any,
    ) -> Tensor:
        means = new_tensor([shape.n, shape.c, 1, 1])
        vectors, norm = input_norm(given)
        library.attention_means(*addresses(raw, *vectors, means), shape, norm)
        ctx.rest = (
            given,
            product,
            shape,
            library,
            wanted_by(raw, *((scale, shift) if given else ())),
        )
        ctx.save_for_backward(raw)
        return means

    @staticmethod
    def backward(ctx: Any, dmeans: Tensor) -> tuple[Tensor | None, ...]:
        given, product, shape, library, wanted = ctx.rest
        (raw,) = ctx.saved_tensor()
        dmeans = checked_gradient(dmeans, [shape.n, shape.c, 1, 1])
        dx, (vectors, norm) = new_tensor(raw.shape), input_norm(given)
        learnt = new_learnt(given)
        both = product.gates, product.gradient
        tensors = addresses(raw, *vectors, *both, dmeans, dx, *learnt)
        library.attention_input_backward(*tensors, shape, norm)
        product.gates = product.gradient = None
        return chosen(wanted, *handed_on(given, dx, learnt))


class _Scaled(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        gates: Tensor,
        given: Statistics | None,
        product: _Product,
        shape: PlanesShape,
        library: Any,
    ) -> Tensor:
        """`raw` is without its graph: its gradient is left to `_Means`."""
        gates, y = without_gaps(gates), new_tensor(raw.shape)
        vectors, norm = input_norm(given)
        library.attention_forward(*addresses(raw, *vectors, gates, y), shape, norm)
        ctx.rest = given, product, shape, library
        ctx.save_for_backward(raw, gates)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        given, product, shape, library = ctx.rest
        raw, gates = ctx.saved_tensor()
        dy, dgates = checked_gradient(dy, raw.shape), new_tensor(gates.shape)
        vectors, norm = input_norm(given)
        library.attention_gates_backward(*addresses(raw, *vectors, dy, dgates), shape, norm)
        product.gates, product.gradient = gates, dy
        return None, dgates
