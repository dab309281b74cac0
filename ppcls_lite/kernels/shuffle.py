"""ShuffleNet's halves of channels, and channels of two tensors in turns, each in one pass.

Paddle splits, concatenates and turns in four passes over memory each way. Here the two tensors may
be `Deferred`: they are formed where they are written. A half that passes a block unchanged is read
in place, and its gradient, with that of the other half, which comes later in the backward pass,
written in one. Read next: source/shuffle.cpp; layers.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paddle
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
    values,
)
from ppcls_lite.kernels.library import PlanesShape, ShuffleShape
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
from ppcls_lite.models import shuffled

Way = Tensor | Deferred


@dataclass
class _Turns:
    """What the backward pass of the tensor in turns leaves for that of the halves."""

    gradient: Tensor | None = None


def in_turns(one: Way, two: Way, library: ctypes.CDLL) -> Tensor:
    """Both (N, C, H, W) -> (N, 2 C, H, W)."""
    raws = [raw_of(one), raw_of(two)]
    if list(raws[0].shape) != list(raws[1].shape) or not _are_known(*raws):
        return shuffled.in_turns(values(one), values(two))
    n, c, height, width = raws[0].shape
    return _turned((one, two), None, ShuffleShape(PlanesShape(n, c, height * width), 0), library)


def with_half(x: Tensor, of: Callable[[Tensor], Way], library: ctypes.CDLL) -> Tensor:
    """x (N, 2 C, H, W): its first half in turns with what `of` makes of the second one.

    `of` has to hand the gradient on to its input, if its output has one.
    """
    if not _are_known(x) or x.shape[1] % 2:
        first, second = paddle.split(x, 2, axis=1)
        return in_turns(first, of(second), library)
    x = without_gaps(x)
    n, c, height, width = x.shape
    shape, turns = ShuffleShape(PlanesShape(n, c // 2, height * width), 1), _Turns()
    half = once(_Half.apply(x, turns, shape, library))
    other = of(half)
    raw = raw_of(other)
    same = list(raw.shape) == list(half.shape) and are_plain(raw)
    if not same or raw.stop_gradient != x.stop_gradient:  # then `_Half` has no backward pass
        return in_turns(x[:, : c // 2], other, library)
    return _turned((x.detach(), other), turns, shape, library)


def _are_known(*tensors: Tensor) -> bool:
    return all(x.ndim == 4 and 0 not in x.shape for x in tensors) and are_plain(*tensors)


def _turned(
    ways: tuple[Way, Way], turns: _Turns | None, shape: ShuffleShape, library: ctypes.CDLL
) -> Tensor:
    tensors: list[Tensor | None] = []
    given: list[Statistics | None] = []
    for way in ways:
        of, learnt = used(way)
        tensors += [raw_of(way), *learnt]
        given.append(of)
    return once(_InTurns.apply(*tensors, given, turns, shape, library))


class _Half(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, turns: _Turns, shape: ShuffleShape, library: Any) -> Tensor:
        half = shape.half
        y = new_tensor([half.n, half.c, *x.shape[2:]])
        library.half_forward(*addresses(x, y), half)
        ctx.rest = list(x.shape), turns, half, library
        return y

    @staticmethod
    def backward(ctx: Any, dhalf: Tensor) -> Tensor:
        size, turns, half, library = ctx.rest
        dhalf, dx = checked_gradient(dhalf, [half.n, half.c, *size[2:]]), new_tensor(size)
        dturns, turns.gradient = turns.gradient, None  # None if the halves took no turns
        library.half_backward(*addresses(dturns, dhalf, dx), half)
        return dx


class _InTurns(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        one: Tensor,
        one_scale: Tensor | None,
        one_shift: Tensor | None,
        two: Tensor,
        two_scale: Tensor | None,
        two_shift: Tensor | None,
        given: list[Statistics | None],
        turns: _Turns | None,
        shape: ShuffleShape,
        library: Any,
    ) -> Tensor:
        """With `turns`, `one` is without its graph: its gradient is left to `_Half`."""
        ways = (one, one_scale, one_shift), (two, two_scale, two_shift)
        wanted = [wanted_by(*(t for t in way if t is not None)) for way in ways]
        raws = [without_gaps(one), without_gaps(two)]
        y = new_tensor([shape.half.n, 2 * shape.half.c, *two.shape[2:]])
        norms = [input_norm(of) for of in given]
        tensors = [t for raw, (vectors, _) in zip(raws, norms) for t in (raw, *vectors)]
        library.shuffle_forward(*addresses(*tensors, y), shape, *(norm for _, norm in norms))
        ctx.save_for_backward(*raws)
        ctx.rest = given, turns, shape, library, wanted
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        given, turns, shape, library, wanted = ctx.rest
        raws = ctx.saved_tensor()
        half = shape.half
        dy = checked_gradient(dy, [half.n, 2 * half.c, *raws[1].shape[2:]])
        if turns is not None:
            turns.gradient = dy
        found: list[Tensor | None] = []
        for place, (raw, of, want) in enumerate(zip(raws, given, wanted)):
            if not any(want):
                found += [None] * len(want)
                continue
            dx, (vectors, norm) = new_tensor(raw.shape), input_norm(of)
            learnt = new_learnt(of)
            (first,) = addresses(dy)
            first += place * half.size * 4
            before, after = addresses(raw, *vectors), addresses(dx, *learnt)
            library.shuffle_backward(*before, first, *after, half, norm)
            found += chosen(want, *handed_on(of, dx, learnt))
        return tuple(found)
