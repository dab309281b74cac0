"""A space of trunks inside a network of another task. Read before: space.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import SpaceSpec
from ppcls_lite.search.space import Candidate, Space


@register("space")
class TrunkSpace(Space):
    """The trunks of a detector or of a network that segments; the rest is the recipe's.

    network: its class or zoo name under `Arch.name`, e.g. PicoDet.
    space: what may be chosen, e.g. `{name: PPLCNetSpace, expand: [1280]}`; what only a classifier
        has should have one option.
    trunk: further arguments of the trunk, the same for all.
    key: the argument of the network that names its trunk.

    Candidates are measured as whole networks.
    """

    def __init__(
        self,
        network: str,
        space: SpaceSpec,
        trunk: dict[str, Any] | None = None,
        key: str = "backbone",
    ) -> None:
        self.network, self.inner, self.key = network, space, key
        self.trunk: Mapping[str, Any] = trunk or {}
        self.slots = space.slots

    def arch(self, candidate: Candidate) -> dict[str, Any]:
        own = self.inner.arch(candidate)
        return {self.key: {"name": self.inner.network, **self.trunk, **own}}

    def canonical(self, candidate: Candidate) -> Candidate:
        return self.inner.canonical(candidate)

    def known(self) -> dict[str, Candidate]:
        return self.inner.known()
