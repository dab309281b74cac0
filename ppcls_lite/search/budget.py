"""Whether candidates keep to what they may cost: milliseconds, and parameters.

Latencies of a dozen networks bring the sums of their pieces to scale; an estimate says what is
worth a score, a measurement of the whole network what is a finalist. All are in the journal.
Read before: latency.py, whole.py, networks.py. Read next: run.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.latency import LatencyTable, Meter, Scale, fastest
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import Candidate, Piece, digest
from ppcls_lite.search.whole import WholeNetworks

logger = logging.getLogger("ppcls_lite")
AUTO = "auto"  # the engine that is left to a measurement
TOLERANCE = 0.03  # by which a measured latency may miss the target
_TURNS = 4  # networks that are measured in turns at least
_FITTED = 12  # networks that the estimates are brought to scale by
_MARGIN = 1.05  # of the target: estimates up to there are worth measuring


def resolved(
    setting: Setting, networks: Networks, seed: int, world: World, journal: Journal
) -> Setting:
    """`setting` with what `auto` would choose for a network from the middle of the space."""
    if setting.engine != AUTO:
        return setting
    kept = journal.get("engine", "")
    if kept is None:
        middle = networks.space.draw(np.random.default_rng(seed))
        piece = networks.whole(middle)
        kept = world.from_main(lambda: list(fastest(piece, setting)))
        journal.put("engine", "", kept)
    logger.info(f"search: auto is {' '.join(kept)}")
    return Setting(*kept, setting.threads)


class Budget:
    """Measures candidates in `setting`, pinned to `cores`, against a target and a bound.

    bounds: milliseconds, or the network that takes them, and the most parameters (null:
    any number). fill: share of the milliseconds that a candidate takes at least. Rank 0 measures
    for all.

    Attributes:
        target: milliseconds.
        asked: the same in words, with the network that was named.
    """

    def __init__(
        self,
        networks: Networks,
        setting: Setting,
        cores: Sequence[int],
        bounds: tuple[float | Piece, int | None],
        world: World,
        journal: Journal,
        fill: float = 0.0,
    ) -> None:
        self.networks, self.space, self.setting = networks, networks.space, setting
        target, self.most = bounds
        self.fill, self.least = fill, 0.0
        self.world, self.journal = world, journal
        meter, self.scale = Meter(setting, cores), Scale()
        self.measured = WholeNetworks(networks, meter, target, world, journal)
        self.target = self.measured.target
        named = self.measured.named
        self.asked = f"{self.target:.4g} ms" + (f" ({named.name})" if named else "")
        self.table = LatencyTable(setting, meter)
        self.adds_up = bool(networks.pieces(networks.space.smallest()))

    def calibrate(self, seed: int) -> None:
        """Measure some networks as a whole, and refuse a target below the fastest."""
        rng = np.random.default_rng(seed)
        drawn = [self.space.draw(rng) for _ in range(_FITTED - 2)]
        chosen = [self.space.smallest(), self.space.largest(), *drawn]
        times = self.whole(list({digest(c): c for c in chosen}.values()))
        fastest, slowest = (times[digest(c)] for c in (self.space.smallest(), self.space.largest()))
        self.least = self.fill * min(self.target, slowest)
        if not self.inside(fastest):
            raise UserError(self.too_slow({"": fastest}))
        if not self._small(self.space.smallest()):
            raise UserError(
                f"search: no candidate has {self.most:,} parameters or fewer; the "
                f"smallest has {self.networks.parameters(self.space.smallest()):,}. Give a larger "
                "Search.max_parameters, or smaller options in Search.space"
            )

    def inside(self, ms: float) -> bool:
        """Whether a measured latency keeps to the target."""
        return ms <= self.target * (1 + TOLERANCE)

    def too_slow(self, times: dict[str, float]) -> str:
        """What to say where none of these measured latencies keeps to the target."""
        return (
            f"search: no candidate takes {self.asked} or less; the fastest that was measured "
            f"takes {min(times.values()):.2f} ms ({self.setting}). Give a larger --latency, or "
            "smaller options in Search.space"
        )

    def whole(self, candidates: Sequence[Candidate], settle: bool = False) -> dict[str, float]:
        """Measured latencies by digest; the estimates are brought to scale by all of them.

        settle: measure those again that were measured while the machine was busy.
        """
        self.measured.measure(candidates, settle)
        known = self.measured.latencies()
        if self.adds_up:
            entries = self.journal.all("whole").values()
            sums, counts = self._sums([entry["candidate"] for entry in entries])
            self.scale.fit(sums, counts, [*known.values()])
        return {digest(c): known[digest(c)] for c in candidates}

    def _sums(self, candidates: Sequence[Candidate]) -> tuple[list[float], list[int]]:
        """Sum and number of the pieces of each candidate; measures what the table lacks."""
        lists = [self.networks.pieces(c) for c in candidates]

        def filled() -> list[float]:
            self.table.require(piece for pieces in lists for piece in pieces)
            return [self.table.total(pieces) for pieces in lists]

        return self.world.from_main(filled), [len(pieces) for pieces in lists]

    def estimates(self, candidates: Sequence[Candidate]) -> list[float]:
        """Milliseconds, from the pieces."""
        return [self.scale(*pair) for pair in zip(*self._sums(candidates))]

    def kept(self, candidates: Sequence[Candidate], count: int = 0) -> list[bool]:
        """Which keep to both bounds, by what is estimated, however many they are."""
        times = self.estimates(candidates)
        least, most = self.least / _MARGIN, self.target * _MARGIN
        return [least <= ms <= most and self._small(c) for c, ms in zip(candidates, times)]

    def hopeful(self, candidates: Sequence[Candidate], count: int = 0) -> list[bool]:
        """Which may keep to both bounds, by what costs no measurement, however many they are."""
        return self.kept(candidates) if self.adds_up else [self._small(c) for c in candidates]

    def fits(self, candidates: Sequence[Candidate], count: int) -> list[bool]:
        """Which keep to both bounds, measured as a whole where an estimate leaves hope.

        Once `count` of them do, what is left is not measured and does not.
        """
        hopeful = [c for c, good in zip(candidates, self.hopeful(candidates)) if good]
        good: set[str] = set()
        step = max(count, _TURNS)
        for first in range(0, len(hopeful), step):
            times = self.whole(hopeful[first : first + step])
            good |= {key for key, ms in times.items() if self.least <= ms and self.inside(ms)}
            if len(good) >= count:
                break
        return [digest(c) in good for c in candidates]

    def _small(self, candidate: Candidate) -> bool:
        return self.most is None or self.networks.parameters(candidate) <= self.most

    def known(self) -> dict[str, dict[str, Any]]:
        """By name, networks of the zoo that are points of the space, with their latencies."""
        known = self.space.known()
        times = self.whole([*known.values()])
        return {n: {"name": n, "candidate": c, "ms": times[digest(c)]} for n, c in known.items()}

    def typical(self) -> Candidate:
        """Of those that were measured, the slowest that keeps to the target."""
        inside = {key: ms for key, ms in self.measured.latencies().items() if self.inside(ms)}
        return self.journal.get("whole", max(inside, key=lambda key: inside[key]))["candidate"]

    def choice(self, known: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The slowest network of the zoo that keeps to the bounds."""
        inside = [k for k in known.values() if self.inside(k["ms"]) and self._small(k["candidate"])]
        return max(inside, key=lambda entry: entry["ms"], default=None)
