"""`search`: from a recipe and a latency to the recipe of a network that keeps to it.

In this order: the images that judge are held out, latencies of pieces are measured, a supernet is
trained, evolution draws candidates that are fast enough and scores them by it, the best are
measured as a whole, and the best of those that keep to the target are trained alone by successive
halving.
What every step found out is in the folder's journal, where the next start goes on.
Read before: space.py. Read next: report.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.config.check import build
from ppcls_lite.config.complete import Recipe, Tree
from ppcls_lite.config.file import dump
from ppcls_lite.config.settings import SearchSettings
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.recipe.classes import count_classes_in_data
from ppcls_lite.recipe.parts import image_shape_of, seed_of
from ppcls_lite.recipe.start import start
from ppcls_lite.search.evolution import evolve
from ppcls_lite.search.held_out import split
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.judge import ProxyJudge, SupernetJudge
from ppcls_lite.search.latency import LatencyTable, Meter, Scale, errors, fastest
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import Candidate, Space, digest
from ppcls_lite.search.zero_cost import Untrained
from ppcls_lite.system.files import link_or_copy, write_text

logger = logging.getLogger("ppcls_lite")
TOLERANCE = 0.03  # by which a measured latency may miss the target
AUTO = "auto"  # the engine that is left to a measurement
_FITTED = 12  # networks that the estimates are brought to scale by
_MARGIN = 1.05  # of the target: estimates up to there are worth measuring


@dataclass
class Finalist:
    """A candidate that was trained alone."""

    name: str  # of the zoo, or the digest
    candidate: Candidate
    ms: float
    supernet: float
    rungs: list[float] = field(default_factory=list)  # scores after each training


@dataclass
class Result:
    """What a search found, for its report."""

    target: float
    setting: str
    estimates: tuple[float, float]  # median and largest relative error
    measured: list[tuple[float, float]]  # latency and supernet score of candidates, as a whole
    finalists: list[Finalist]  # best first
    params: dict[str, int]  # of the finalists
    untrained: dict[str, list[float]]  # what cheap scores say of them, in their order
    budgets_choice: str | None  # the network of the zoo that the target alone would choose
    is_main: bool = True  # whether this process writes and prints


def search(
    tree: Tree | Recipe,
    target: float,
    setting: Setting,
    cores: Sequence[int],
    folder: Path,
    minutes: float | None = None,
) -> Result:
    """Search for a network that takes at most `target` ms; writes `folder/recipe.yaml`.

    minutes: how long it may take, about; then the lengths of the trainings follow from it instead
    of from the recipe's `Search`.

    Raises UserError where no candidate is fast enough, with the fastest.
    """
    recipe, world = start(tree, ("Loss", "Optimizer", "DataLoader", "Infer"))
    recipe = count_classes_in_data(recipe)
    return _Search(recipe, world, target, setting, cores, folder).run(minutes)


def planned(wanted: SearchSettings, minutes: float, epoch_seconds: float) -> SearchSettings:
    """`wanted` with trainings as long as fit into `minutes`.

    epoch_seconds: of the supernet, whose updates train four networks: one alone takes a third of
    it with its evaluations. Two fifths of the time are the supernet's, two fifths the finalists',
    the rest is for measuring and scoring.
    """
    share = 0.4 * 60 * minutes
    alone = wanted.rungs * wanted.finalists * epoch_seconds / 3
    return dataclasses.replace(
        wanted,
        supernet_epochs=max(1, int(share / epoch_seconds)),
        proxy_epochs=max(1, int(share / alone)),
    )


class _Search:
    def __init__(
        self,
        recipe: Recipe,
        world: World,
        target: float,
        setting: Setting,
        cores: Sequence[int],
        folder: Path,
    ) -> None:
        self.world, self.target, self.folder = world, target, folder
        self.wanted = recipe.settings.Search or SearchSettings()
        given = self.wanted.space
        self.space: Space = given.build() if given else build({"PPLCNetSpace": {}}, "space")
        self.seed = seed_of(recipe.settings)
        self.recipe = recipe
        self.networks = Networks(recipe, self.space, tuple(image_shape_of(recipe.settings)))
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
        world.barrier()
        facts = {"target": target, "setting": str(setting), "seed": self.seed}
        facts["space"] = digest({n: list(options) for n, options in self.space.slots.items()})
        facts["strategy"] = self.wanted.strategy
        if self.wanted.max_parameters:
            facts["max_parameters"] = self.wanted.max_parameters
        if self.wanted.sieve:
            facts["sieve"] = f"{self.wanted.sieve} {self.wanted.sieve_keeps:g}"
        self.journal = Journal(folder, facts, writes=world.is_main)
        self.setting, self.scale = self._resolved(setting), Scale()
        self.meter = Meter(self.setting, cores)
        self.table = LatencyTable(self.setting, self.meter)

    def run(self, minutes: float | None) -> Result:
        folder = self.folder
        logger.info(
            f"search: {len(self.space.slots)} slots, {self.space.count():.2g} combinations, target "
            f"{self.target:g} ms ({self.setting})"
        )
        self._calibrate()
        main = self.world.is_main
        tree = split(self.recipe, self.wanted.held_out, self.seed, folder / "data", main)
        self.world.barrier()
        with_search = {**tree, "Search": self.recipe.tree.get("Search") or {}}
        judge = SupernetJudge(Recipe.of(with_search), self.networks, self.world, folder)
        try:
            wanted = self.wanted = self._plan(minutes, judge)
            judge.train(wanted.supernet_epochs)
            known = self._known()
            untrained = Untrained(self.networks, judge.first_images(), self.seed, self.world)
            found = evolve(
                self.space,
                self._fast,
                lambda candidates: self._scores(candidates, judge.score),
                population=wanted.population,
                generations=wanted.generations,
                seed=self.seed,
                start=[entry["candidate"] for entry in known.values()],
                by_chance=wanted.strategy == "random",
                sieve=untrained.by(wanted.sieve) if wanted.sieve else None,
                sieve_keeps=wanted.sieve_keeps,
            )
            best = found.best(wanted.measured)
            before = self._estimates(best)
            times = self._whole(best)
            inside = [c for c in best if times[digest(c)] <= self.target * (1 + TOLERANCE)]
            if not inside:
                raise UserError(self._too_slow(times))
            measured = [(times[digest(c)], found.scores[digest(c)]) for c in best]
            choice = self._budgets_choice(known)
            names = {digest(entry["candidate"]): name for name, entry in known.items()}
            finalists = [
                Finalist(names.get(key, key), c, times[key], found.scores[key])
                for c, key in ((c, digest(c)) for c in inside[: wanted.finalists])
            ]
            if choice and choice["name"] not in {f.name for f in finalists}:
                score = self._scores([choice["candidate"]], judge.score)[0]
                finalists.append(Finalist(choice["name"], choice["candidate"], choice["ms"], score))
            proxies = ProxyJudge(tree, self.networks, judge.higher_is_better, folder / "networks")
            self._halve(finalists, proxies, judge)
        finally:
            judge.close()
        finalists.sort(key=lambda f: (-len(f.rungs), -f.rungs[-1]))
        if main:
            self._write_recipe(finalists[0], proxies)
        return Result(
            self.target,
            str(self.setting),
            errors(before, [times[digest(c)] for c in best]),
            measured,
            finalists,
            {f.name: self._params(f.candidate) for f in finalists},
            untrained.all([f.candidate for f in finalists]),
            choice["name"] if choice else None,
            is_main=main,
        )

    def _resolved(self, setting: Setting) -> Setting:
        """With what `auto` would choose for a network from the middle of the space."""
        if setting.engine != AUTO:
            return setting
        kept = self.journal.get("engine", "")
        if kept is None:
            middle = self.space.draw(np.random.default_rng(self.seed))
            piece = self.networks.whole(middle)
            kept = self.world.from_main(lambda: list(fastest(piece, setting)))
            self.journal.put("engine", "", kept)
        logger.info(f"search: auto is {' '.join(kept)}")
        return Setting(*kept, setting.threads)

    def _plan(self, minutes: float | None, judge: SupernetJudge) -> SearchSettings:
        """How long the trainings are; what the first start has planned holds for the others."""
        if minutes is None:
            return self.wanted
        kept = self.journal.get("plan", "")
        if kept is None:
            seconds = self.world.gather(judge.seconds_per_epoch())[0]
            plan = planned(self.wanted, minutes, seconds)
            kept = {n: getattr(plan, n) for n in ("supernet_epochs", "proxy_epochs")}
            self.journal.put("plan", "", kept)
        logger.info(
            f"search: in {minutes:g} minutes the supernet trains for {kept['supernet_epochs']} "
            f"epochs, the finalists at first for {kept['proxy_epochs']}"
        )
        return dataclasses.replace(self.wanted, **kept)

    def _calibrate(self) -> None:
        """Measure some networks as a whole, and refuse a target below the fastest."""
        rng = np.random.default_rng(self.seed)
        drawn = [self.space.draw(rng) for _ in range(_FITTED - 2)]
        chosen = [self.space.smallest(), self.space.largest(), *drawn]
        times = self._whole(list({digest(c): c for c in chosen}.values()))
        fastest = times[digest(self.space.smallest())]
        if fastest > self.target * (1 + TOLERANCE):
            raise UserError(self._too_slow({"": fastest}))
        if not self._small(self.space.smallest()):
            raise UserError(
                f"search: no candidate has {self.wanted.max_parameters:,} parameters or fewer; the "
                f"smallest has {self._params(self.space.smallest()):,}. Give a larger "
                "Search.max_parameters, or smaller options in Search.space"
            )

    def _too_slow(self, times: dict[str, float]) -> str:
        return (
            f"search: no candidate takes {self.target:g} ms or less; the fastest that was measured "
            f"takes {min(times.values()):.2f} ms ({self.setting}). Give a larger --latency, or "
            "smaller options in Search.space"
        )

    def _whole(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """Measured latencies by digest; the estimates are brought to scale by all of them."""
        new = [c for c in candidates if self.journal.get("whole", digest(c)) is None]
        for first in range(0, len(new), 20):
            part = new[first : first + 20]

            def measure(part: Sequence[Candidate] = part) -> dict[str, float]:
                by_name = self.meter([self.networks.whole(c) for c in part])
                return {digest(c): by_name[self.networks.whole(c).name] for c in part}

            for candidate, ms in zip(part, self.world.from_main(measure).values()):
                entry = {"candidate": candidate, "ms": ms}
                self.journal.put("whole", digest(candidate), entry)
        entries = self.journal.all("whole").values()
        known = [entry["candidate"] for entry in entries]
        sums, counts = self._sums(known)
        self.scale.fit(sums, counts, [entry["ms"] for entry in entries])
        return {digest(c): self.journal.get("whole", digest(c))["ms"] for c in candidates}

    def _sums(self, candidates: Sequence[Candidate]) -> tuple[list[float], list[int]]:
        """Sum and number of the pieces of each candidate; measures what the table lacks."""
        lists = [self.networks.pieces(c) for c in candidates]

        def filled() -> list[float]:
            self.table.require(piece for pieces in lists for piece in pieces)
            return [self.table.total(pieces) for pieces in lists]

        return self.world.from_main(filled), [len(pieces) for pieces in lists]

    def _estimates(self, candidates: Sequence[Candidate]) -> list[float]:
        return [self.scale(*pair) for pair in zip(*self._sums(candidates))]

    def _fast(self, candidates: Sequence[Candidate]) -> list[bool]:
        """Which keep to both bounds, by what is estimated."""
        times = self._estimates(candidates)
        return [ms <= self.target * _MARGIN and self._small(c) for c, ms in zip(candidates, times)]

    def _small(self, candidate: Candidate) -> bool:
        most = self.wanted.max_parameters
        return most is None or self._params(candidate) <= most

    def _scores(
        self, candidates: Sequence[Candidate], score: Callable[[Sequence[Candidate]], list[float]]
    ) -> list[float]:
        """Supernet scores, kept in the journal."""
        new = [c for c in candidates if self.journal.get("score", digest(c)) is None]
        for candidate, value in zip(new, score(new) if new else ()):
            self.journal.put("score", digest(candidate), value)
        values = [self.journal.get("score", digest(c)) for c in candidates]
        if values:
            logger.info(
                f"search: {len(values)} candidates, supernet scores up to {max(values):.4f}"
            )
        return values

    def _known(self) -> dict[str, dict[str, Any]]:
        """By name, networks of the zoo that are points of the space, with their latencies."""
        known = self.space.known()
        times = self._whole([*known.values()])
        return {n: {"name": n, "candidate": c, "ms": times[digest(c)]} for n, c in known.items()}

    def _budgets_choice(self, known: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The slowest network of the zoo that keeps to the bounds."""
        limit = self.target * (1 + TOLERANCE)
        inside = [k for k in known.values() if k["ms"] <= limit and self._small(k["candidate"])]
        return max(inside, key=lambda entry: entry["ms"], default=None)

    def _halve(self, finalists: list[Finalist], proxies: ProxyJudge, judge: SupernetJudge) -> None:
        """Train all for a while, the better half for twice as long, and so on."""
        alive, epochs = list(finalists), self.wanted.proxy_epochs
        for rung in range(self.wanted.rungs):
            mine = alive[self.world.rank :: self.world.size]
            own = {f.name: self._proxy(f, epochs, proxies, judge) for f in mine}
            together = {k: v for part in self.world.gather(own) for k, v in part.items()}
            for finalist in alive:
                score = together[finalist.name]
                finalist.rungs.append(score)
                self.journal.put(f"proxy {epochs}", digest(finalist.candidate), score)
            alive.sort(key=lambda f: -f.rungs[-1])
            logger.info(
                f"search: {len(alive)} networks trained for {epochs} epochs, scores "
                f"{alive[-1].rungs[-1]:.4f} to {alive[0].rungs[-1]:.4f}"
            )
            if len(alive) == 1 or rung == self.wanted.rungs - 1:
                break
            alive, epochs = alive[: -(-len(alive) // 2)], 2 * epochs

    def _proxy(
        self, finalist: Finalist, epochs: int, proxies: ProxyJudge, judge: SupernetJudge
    ) -> float:
        candidate = finalist.candidate
        known = self.journal.get(f"proxy {epochs}", digest(candidate))
        if known is not None:
            return known
        path = proxies.folder / digest(candidate) / "start.pdparams"
        path.parent.mkdir(parents=True, exist_ok=True)
        return proxies.score(candidate, epochs, judge.weights(candidate, path))

    def _params(self, candidate: Candidate) -> int:
        model = self.networks.build(candidate)
        return sum(p.size for p in model.parameters() if not p.stop_gradient)

    def _write_recipe(self, winner: Finalist, proxies: ProxyJudge) -> None:
        """`recipe.yaml` of the winner, which starts from where its last training ended."""
        epochs = self.wanted.proxy_epochs * 2 ** (len(winner.rungs) - 1)
        weights = proxies.run_dir(winner.candidate, epochs) / "best_model.pdparams"
        kept = self.folder / "weights.pdparams"
        link_or_copy(weights, kept)
        tree = self.networks.recipe(self.recipe.tree, winner.candidate, str(kept))
        tree["Global"] = {**(tree.get("Global") or {}), "output_dir": str(self.folder / "run")}
        text = f"# {winner.ms:.2f} ms ({self.setting}); found by ppcls-lite search\n"
        write_text(self.folder / "recipe.yaml", text + dump(tree))
