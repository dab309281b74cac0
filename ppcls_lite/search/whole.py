"""Latencies of whole networks, as if all had been measured while the machine was quiet.

A search measures for hours, and other programs come and go. The first networks are measured
together; the one of them that is next to the target is measured again beside all later ones. Where
it is slower than it has been, all are measured again; if that does not help, what it takes longer,
the others take longer, too, and their latencies count for as much less.
Read before: latency.py, journal.py. Read next: budget.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_lite.engine.distributed import World
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.latency import Meter
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import Candidate, digest
from ppcls_lite.system.machine import in_the_way, usable_cores

logger = logging.getLogger("ppcls_lite")
_STEADY = 1.05  # times the least: what no two measurements of a network differ by if it is quiet
_ATTEMPTS = 3  # at measuring while it is quiet
_TOGETHER = 20  # networks that are lost where a measurement is interrupted, at most


class WholeNetworks:
    """Measures candidates with `meter` on rank 0, and keeps what it found in the journal.

    target: milliseconds that matter most.
    """

    def __init__(
        self, networks: Networks, meter: Meter, target: float, world: World, journal: Journal
    ) -> None:
        self.networks, self.meter, self.target = networks, meter, target
        self.world, self.journal = world, journal

    def measure(self, candidates: Sequence[Candidate]) -> None:
        """Measure those that are not in the journal."""
        new = [c for c in candidates if self.journal.get("whole", digest(c)) is None]
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
        reference, least = self._reference(entries)
        slow = {k: e.get("beside", entries[reference]["ms"]) / least for k, e in entries.items()}
        return {k: e["ms"] / (slow[k] if slow[k] > _STEADY else 1) for k, e in entries.items()}

    def _measured(self, part: Sequence[Candidate]) -> list[dict[str, float]]:
        """Of each, `ms` and, in `beside`, those of the reference, if there is one."""
        entries = self.journal.all("whole")
        pieces = [self.networks.whole(c) for c in part]
        if not entries:
            if busy := in_the_way(usable_cores()):
                logger.warning(
                    f"--latency: {busy}: times may be too long, and the network too small"
                )
            times = self.meter(pieces)
            return [{"ms": times[piece.name]} for piece in pieces]
        key, least = self._reference(entries)
        reference = self.networks.whole(entries[key]["candidate"])
        found: dict[str, float] = {}
        for _ in range(_ATTEMPTS):
            again = self.meter([*pieces, reference])
            found = {name: min(ms, found.get(name, math.inf)) for name, ms in again.items()}
            if found[reference.name] <= _STEADY * least:
                break
        else:
            logger.warning(
                f"search: this machine is busy: a network takes {found[reference.name]:.3f} ms "
                f"that took {least:.3f}, so what was measured with it counts for as much less"
            )
        return [{"ms": found[piece.name], "beside": found[reference.name]} for piece in pieces]

    def _reference(self, entries: Mapping[str, dict[str, Any]]) -> tuple[str, float]:
        """The digest of the network that is measured beside the others, and its least ms."""
        first = {key: entry["ms"] for key, entry in entries.items() if "beside" not in entry}
        key = min(first, key=lambda key: abs(first[key] - self.target))
        later = [entry["beside"] for entry in entries.values() if "beside" in entry]
        return key, min(first[key], *later, math.inf)
