"""Latencies of whole networks, as if all had been measured while the machine was quiet.

A search measures for hours, and other programs come and go. Where a network is the target, it is
measured beside all others, and their latencies are what they take of its. Else the first networks
are measured together, and the one of them that is next to the target again beside all later ones.
Where it is slower than it has been, all are measured again; if that does not help, what it takes
longer, the others take longer, too, and their latencies count for as much less.
Read before: latency.py, journal.py. Read next: budget.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ppcls_lite.engine.distributed import World
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.latency import Meter
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import Candidate, Piece, digest
from ppcls_lite.system.machine import in_the_way, usable_cores

logger = logging.getLogger("ppcls_lite")
_STEADY = 1.05  # times the least: what no two measurements of a network differ by if it is quiet
_ATTEMPTS = 3  # at measuring while it is quiet
_TOGETHER = 20  # networks that are lost where a measurement is interrupted, at most


class WholeNetworks:
    """Measures candidates with `meter` on rank 0, and keeps what it found in the journal.

    target: the milliseconds that matter most, or the network that takes them.

    Attributes:
        target: in milliseconds.
        named: the network that takes them, if one is given.
    """

    def __init__(
        self,
        networks: Networks,
        meter: Meter,
        target: float | Piece,
        world: World,
        journal: Journal,
    ) -> None:
        self.networks, self.meter = networks, meter
        self.world, self.journal = world, journal
        self.named = target if isinstance(target, Piece) else None
        self.target = self._takes(target) if isinstance(target, Piece) else target

    def measure(self, candidates: Sequence[Candidate], settle: bool = False) -> None:
        """Measure those that are not in the journal; `settle`: and those that were measured while
        the machine was busy, which no factor puts quite right."""
        known = self.journal.all("whole")
        done = known.keys() - (self._slowed(known) if settle else set())
        new = [c for c in candidates if digest(c) not in done]
        for first in range(0, len(new), _TOGETHER):
            part = new[first : first + _TOGETHER]
            measured = self.world.from_main(lambda part=part: self._measured(part))
            for candidate, facts in zip(part, measured):
                self.journal.put("whole", digest(candidate), {"candidate": candidate, **facts})

    def latencies(self) -> dict[str, float]:
        """Of all that were measured, ms, by digest."""
        entries = self.journal.all("whole")
        if not entries:
            return {}
        _, first, least = self._reference(entries)
        slow = {k: e.get("beside", first) / least for k, e in entries.items()}
        steady = 0.0 if self.named else _STEADY  # a share of its latency is what is asked for
        return {k: e["ms"] / (slow[k] if slow[k] > steady else 1) for k, e in entries.items()}

    def _takes(self, piece: Piece) -> float:
        """Milliseconds of the network that is the target."""
        kept = self.journal.get("target", piece.name)
        if kept is None:
            times = self.world.from_main(lambda: [self.meter([piece]) for _ in range(_ATTEMPTS)])
            kept = _least(times)[piece.name]
            self.journal.put("target", piece.name, kept)
        return kept

    def _slowed(self, entries: Mapping[str, dict[str, Any]]) -> set[str]:
        """The digests of those beside which the reference was slow."""
        if not entries:
            return set()
        least = self._reference(entries)[2]
        return {k for k, e in entries.items() if e.get("beside", 0.0) > _STEADY * least}

    def _measured(self, part: Sequence[Candidate]) -> list[dict[str, float]]:
        """Of each, `ms` and, in `beside`, those of the reference, if there is one."""
        entries = self.journal.all("whole")
        pieces = [self.networks.whole(c) for c in part]
        if not entries and not self.named:
            if busy := in_the_way(usable_cores()):
                logger.warning(
                    f"--latency: {busy}: times may be too long, and the network too small"
                )
            times = self.meter(pieces)
            return [{"ms": times[piece.name]} for piece in pieces]
        reference, _, least = self._reference(entries)
        found: dict[str, float] = {}
        for _ in range(_ATTEMPTS):
            found = _least([self.meter([*pieces, reference]), found])
            if found[reference.name] <= _STEADY * least:
                break
        else:
            logger.warning(
                f"search: this machine is busy: a network takes {found[reference.name]:.3f} ms "
                f"that took {least:.3f}, so what was measured with it counts for as much less"
            )
        return [{"ms": found[piece.name], "beside": found[reference.name]} for piece in pieces]

    def _reference(self, entries: Mapping[str, dict[str, Any]]) -> tuple[Piece, float, float]:
        """The network that is measured beside the others, its first ms and its least."""
        if self.named:
            return self.named, self.target, self.target
        first = {key: entry["ms"] for key, entry in entries.items() if "beside" not in entry}
        key = min(first, key=lambda key: abs(first[key] - self.target))
        later = [entry["beside"] for entry in entries.values() if "beside" in entry]
        reference = self.networks.whole(entries[key]["candidate"])
        return reference, first[key], min(first[key], *later, math.inf)


def _least(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of each network the least that it took."""
    found: dict[str, float] = {}
    for times in measured:
        found |= {name: min(ms, found.get(name, math.inf)) for name, ms in times.items()}
    return found
