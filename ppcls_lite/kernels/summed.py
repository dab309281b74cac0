"""Sums of branches, finished by a factor and a shift, an activation, a factor and a shift.

Paddle adds the branches, multiplies, adds, activates, multiplies and adds in a pass over memory or
two each, and as many for the gradients. Here a branch may be `Deferred`; it is formed where it is
added, and all that follows is done while a plane is in the cache. The gradient of the sum is that
of every branch: they share one tensor. Read next: source/sum.cpp; layers.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_lite.kernels.deferred import Deferred, Statistics, raw_of, used, values
from ppcls_lite.kernels.library import PlanesShape, SumShape
from ppcls_lite.kernels.ops import ACTIVATIONS, STOCK_ACTIVATIONS
from ppcls_lite.kernels.tensors import (
    addresses,
    are_plain,
    checked_gradient,
    chosen,
    new_tensor,
    once,
    wanted_by,
    without_gaps,
)
from ppcls_lite.models.layers import added

Affine = tuple[Tensor, Tensor]  # a factor and a shift, one number each


class Finish(NamedTuple):
    """What becomes of a sum: behind * act(before * sum + shift) + shift."""

    before: Affine | None = None
    act: str | None = None  # a key of `ACTIVATIONS`
    behind: Affine | None = None


NOTHING = Finish()
_NO_CHANGE = (1.0, 0.0, 1.0, 0.0)  # the four numbers where there are none


def summed(
    terms: Sequence[Tensor | Deferred], library: ctypes.CDLL, finish: Finish = NOTHING
) -> Tensor:
    """Tensors of one shape (N, C, H, W) -> their sum, finished."""
    raws = [raw_of(term) for term in terms]
    scalars = [one for affine in (finish.before, finish.behind) for one in affine or (None, None)]
    known = are_plain(*raws, *(one for one in scalars if one is not None))
    known = known and all(list(raw.shape) == list(raws[0].shape) for raw in raws)
    has_planes = raws[0].ndim == 4 and 0 not in raws[0].shape
    # Two tensors that are there already, and at most an activation: Paddle is as fast.
    is_plain = len(terms) < 3 and finish.before is None and finish.behind is None
    is_plain = is_plain and not any(isinstance(term, Deferred) for term in terms)
    if not (known and has_planes) or is_plain:
        return _stock(terms, finish)
    tensors: list[Tensor | None] = []
    given: list[Statistics | None] = []
    for term, raw in zip(terms, raws):
        of, learnt = used(term)
        tensors += [raw, *learnt]
        given.append(of)
    n, c, height, width = raws[0].shape
    planes = PlanesShape(n, c, height * width)
    numbers = [default if one is None else one.item() for one, default in zip(scalars, _NO_CHANGE)]
    shape = SumShape(planes, len(terms), ACTIVATIONS[finish.act], *numbers)
    return once(_Sum.apply(given, finish != NOTHING, shape, library, *scalars, *tensors))


def _stock(terms: Sequence[Tensor | Deferred], finish: Finish) -> Tensor:
    y = added([values(term) for term in terms])
    if finish.before is not None:
        y = finish.before[0] * y + finish.before[1]
    y = STOCK_ACTIVATIONS[finish.act](y)
    return y if finish.behind is None else finish.behind[0] * y + finish.behind[1]


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*addresses(*tensors))


def _parts(raws: Sequence[Tensor], given: Sequence[Statistics | None]) -> tuple[Any, Any]:
    """What C++ reads of the terms, and their own activations."""
    parts: list[Tensor | None] = []
    for raw, of in zip(raws, given):
        parts += [raw, *(of.vectors() if of is not None else (None,) * 4)]
    own = [of.shape.activation if of is not None else 0 for of in given]
    return _pointers(parts), (ctypes.c_int64 * len(own))(*own)


class _Sum(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        given: Sequence[Statistics | None],
        finishes: bool,
        shape: SumShape,
        library: Any,
        *tensors: Tensor | None,
    ) -> Tensor:
        """tensors: four scalars, then of each term its planes, and scale and shift or None."""
        wanted = wanted_by(*(one for one in tensors if one is not None))
        raws = [without_gaps(raw) for raw in tensors[4::3]]
        y = new_tensor(raws[0].shape)
        z = new_tensor(y.shape) if finishes else y
        library.sum_forward(*_parts(raws, given), *addresses(z, y), shape)
        # y itself would hold the graph that holds y
        ctx.save_for_backward(z if finishes else z.detach(), *raws)
        ctx.rest = given, [one is not None for one in tensors[:4]], shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        given, scalars, shape, library, wanted = ctx.rest
        z, *raws = ctx.saved_tensor()
        dy, dz = checked_gradient(dy, z.shape), new_tensor(z.shape)
        learnt = [
            (new_tensor(of.scale.shape), new_tensor(of.shift.shape)) if of else (None, None)
            for of in given
        ]
        all_four = new_tensor([len(scalars)])
        flat = _pointers([one for pair in learnt for one in pair])
        library.sum_backward(*_parts(raws, given), flat, *addresses(z, dy, dz, all_four), shape)
        found: list[Tensor | None] = [
            all_four[i : i + 1] for i, is_given in enumerate(scalars) if is_given
        ]
        for of, pair in zip(given, learnt):
            # A tensor may have other uses, whose gradients Paddle adds in place to this one.
            found += of.used(dz, *pair) if of else (dz.clone(),)
        return chosen(wanted, *found)
