"""What may be chosen: a space of candidates, each an option for every slot.

A candidate is a plain map from slots to options, so that it can be kept as JSON, drawn, changed in
one slot and mixed with another. What network it stands for, its space says: `arch` gives the
arguments of the recipe's `Arch`, `pieces` the parts whose latencies add up to the network's. A
space of one's own is a class with `@register("space")` in a plug-in.
Read next: pplcnet_space.py (the default), latency.py, evolution.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.errors import UserError

if TYPE_CHECKING:
    from paddle import nn

Candidate = dict[str, Any]  # slot -> one of its options
Scored = tuple[Candidate, float]
Shape = tuple[int, int, int]  # (C, H, W) of an input
SIZE = "size"  # the slot of the input's edge, where a space has one


@dataclass(frozen=True)
class Piece:
    """A part of a network that is measured alone: `build()` takes (N, *shape) to a `feature`, or
    is a whole network, with the answers that ship.

    Pieces of one name are the same part, whatever networks they stand in.
    """

    name: str
    shape: Shape
    build: Callable[[], nn.Layer]
    feature: bool = True


class Space:
    """Slots with their options, in the order in which larger ones come later.

    Attributes:
        slots: name -> options. Slots `NAME.NUMBER` are the same choice at several places.
        network: the class of network whose arguments a candidate chooses.
    """

    slots: Mapping[str, Sequence[Any]]
    network: str

    def arch(self, candidate: Candidate) -> dict[str, Any]:
        """The arguments of `Arch` that the candidate chooses."""
        raise NotImplementedError

    def canonical(self, candidate: Candidate) -> Candidate:
        """The candidate with the first option in each slot that does not matter to it."""
        return candidate

    def pieces(self, candidate: Candidate, shape: Shape, arch: Mapping[str, Any]) -> list[Piece]:
        """The parts of its network for images of `shape`; `arch` has the recipe's arguments too.

        Empty: only whole networks of this space can be measured.
        """
        return []

    def known(self) -> dict[str, Candidate]:
        """Networks of the zoo that are points of the space, by their names; with each size."""
        return {}

    def smallest(self) -> Candidate:
        """The candidate with the first option in every slot."""
        return self.canonical({name: options[0] for name, options in self.slots.items()})

    def largest(self) -> Candidate:
        """The candidate with the last option in every slot, of which all others are parts."""
        return self.canonical({name: options[-1] for name, options in self.slots.items()})

    def matters(self, candidate: Candidate, slot: str) -> bool:
        """Whether another option in `slot` would make another network of the candidate."""
        own = self.canonical(candidate)
        others = (option for option in self.slots[slot] if option != own[slot])
        return any(self.canonical({**own, slot: option}) != own for option in others)

    def draw(self, rng: np.random.Generator) -> Candidate:
        """Any candidate; every option of a slot is as likely."""
        return self.canonical(
            {name: options[rng.integers(len(options))] for name, options in self.slots.items()}
        )

    def changed(self, candidate: Candidate, rng: np.random.Generator, share: float) -> Candidate:
        """A neighbour: each slot is drawn anew with the probability `share`, at least one is."""
        free = [name for name, options in self.slots.items() if len(options) > 1]
        if not free:
            return candidate
        hit = rng.random(len(free)) < share
        hit[rng.integers(len(free))] = True
        new = {
            name: self.slots[name][rng.integers(len(self.slots[name]))]
            for name, drawn in zip(free, hit)
            if drawn
        }
        return self.canonical({**candidate, **new})

    def mixed(self, one: Candidate, other: Candidate, rng: np.random.Generator) -> Candidate:
        """Each slot from one of the two."""
        return self.canonical(
            {name: (one, other)[rng.integers(2)].get(name, one[name]) for name in self.slots}
        )

    def count(self) -> float:
        """How many combinations of options there are."""
        return float(np.prod([float(len(options)) for options in self.slots.values()]))


def digest(candidate: Candidate) -> str:
    """Ten hexadecimal digits that name a candidate in files and folders."""
    text = json.dumps(candidate, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def size_of(candidate: Candidate, shape: Shape) -> Shape:
    """The (C, H, W) of a candidate's input: `shape`, or its own size."""
    size = candidate.get(SIZE)
    return shape if size is None else (shape[0], size, size)


@register("space")
class ArchSpace(Space):
    """Any network's arguments: each key has a list of values, smaller ones first.

    network: the class or zoo name under `Arch.name`, e.g. PPLCNetV3.
    keys: argument -> its values, e.g. `scale: [0.5, 0.75, 1.0]`. The last values together must be
        the network of which all others are parts, for weights to be shared.
    """

    def __init__(self, network: str, keys: dict[str, list[Any]]) -> None:
        if not keys or not all(keys.values()):
            raise UserError("ArchSpace.keys: expected an argument with a list of values at least")
        self.network = network
        self.slots = {name: tuple(values) for name, values in keys.items()}

    def arch(self, candidate: Candidate) -> dict[str, Any]:
        return {name: candidate[name] for name in self.slots if name != SIZE}
