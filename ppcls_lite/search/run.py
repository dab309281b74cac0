"""`search`: from a recipe and a latency to the recipe of a network that keeps to it.

In this order: the images that judge are held out, latencies of pieces are measured, a supernet is
trained, evolution draws candidates that are fast enough and scores them by it (where there is no
time for one, by short trainings of their own), the best are measured as a whole, and the best of
those that keep to the target are trained alone by successive halving.
What every step found out is in the folder's journal, where the next start goes on.
Read before: space.py, budget.py, judge.py. Read next: report.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.config.check import build
from ppcls_lite.config.complete import Recipe, Tree
from ppcls_lite.config.file import dump
from ppcls_lite.config.settings import SearchSettings
from ppcls_lite.engine import run_folder
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.recipe.classes import count_classes_in_data
from ppcls_lite.recipe.parts import image_shape_of, seed_of
from ppcls_lite.recipe.start import start
from ppcls_lite.search.budget import Budget, resolved
from ppcls_lite.search.choices import Choice, choices
from ppcls_lite.search.evolution import Sieve, evolve
from ppcls_lite.search.held_out import split
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.judge import ProxyJudge, SupernetJudge, shared
from ppcls_lite.search.latency import errors
from ppcls_lite.search.learned import LEARNED, Learned, earlier
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import Candidate, Space, digest
from ppcls_lite.search.zero_cost import PRICES, Untrained
from ppcls_lite.system.files import link_or_copy, write_text

logger = logging.getLogger("ppcls_lite")
_FEWEST = 8  # candidates of a generation, however little time there is
_PARENTS = 5  # candidates of a generation whose scores are trainings
_LEAST = 50  # epochs of a supernet that is worth its time: a dozen order nothing (docs/search.md)
_START = 8.0  # seconds before a candidate's own training begins
_PLANNED = (  # what `--minutes` decides
    *("supernet_epochs", "population", "generations", "finalists", "proxy_epochs", "rungs"),
)


@dataclass
class Finalist:
    """A candidate that was trained alone."""

    name: str  # of the zoo, or the digest
    candidate: Candidate
    ms: float
    score: float  # by the supernet or a short training
    rungs: list[float] = field(default_factory=list)  # scores after each training


@dataclass
class Result:
    """What a search found, for its report."""

    target: float  # ms
    asked: str  # the target in words
    setting: str
    estimates: tuple[float, float] | None  # median and largest relative error; None: there are none
    measured: list[tuple[float, float]]  # latency as a whole and score of candidates
    finalists: list[Finalist]  # best first
    params: dict[str, int]  # of the finalists
    untrained: dict[str, list[float]]  # what cheap scores say of them, in their order
    budgets_choice: str | None  # the network of the zoo that the target alone would choose
    choices: list[Choice]  # what the scored candidates say of each slot, the surest first
    scored: int  # how many they are
    price: str  # what the scores of candidates come from
    judging: str  # which images judge
    is_main: bool = True  # whether this process writes and prints


def search(
    tree: Tree | Recipe,
    target: float | str,
    setting: Setting,
    cores: Sequence[int],
    folder: Path,
    minutes: float | None = None,
) -> Result:
    """Search for a network that takes at most `target` ms; writes `folder/recipe.yaml`.

    target: a number, or the name of a network that is measured beside the candidates.
    minutes: how long it may take, about; then the lengths of the trainings follow from it instead
    of from the recipe's `Search`.

    Raises UserError where no candidate is fast enough, with the fastest, and where another search
    is running in `folder`.
    """
    recipe, world = start(tree, ("Loss", "Optimizer", "DataLoader", "Infer"))
    searching = _Search(count_classes_in_data(recipe), world, target, folder)
    with contextlib.ExitStack() as owner:
        if world.is_main:
            owner.enter_context(run_folder.claimed(folder, "a search", "--output PATH"))
        world.barrier()
        searching.open(setting, cores)
        return searching.run(minutes)


class Costs(NamedTuple):
    """Seconds: of an epoch of the supernet, of a score by it, of an epoch of a candidate alone."""

    supernet_epoch: float
    score: float
    epoch_alone: float


def planned(wanted: SearchSettings, minutes: float, costs: Costs) -> SearchSettings:
    """`wanted` with trainings as long, and candidates as many, as fit into `minutes`.

    Two fifths of the time are the supernet's, two fifths the finalists', an eighth is for scores,
    the rest for latencies. A supernet of few epochs orders nothing: where there is time for fewer
    than `_LEAST`, half of it is for short trainings that score, and the best of them train on.
    """
    whole = 60 * minutes
    share = 0.4 * whole
    supernet_epochs = int(share / costs.supernet_epoch)
    if supernet_epochs >= _LEAST:
        alone = wanted.finalists * wanted.rungs * costs.epoch_alone
        starts = 2 * wanted.finalists * _START
        scored = int(0.125 * whole / costs.score / wanted.generations)
        return dataclasses.replace(
            wanted,
            supernet_epochs=supernet_epochs,
            proxy_epochs=max(1, int((share - starts) / alone)),
            population=min(wanted.population, max(_FEWEST, scored)),
        )
    score = wanted.score_scale**2 * wanted.score_epochs * costs.epoch_alone + _START
    scored = max(_FEWEST, int(0.5 * whole / score))
    generations = max(1, min(wanted.generations, scored // _PARENTS))
    proxy_epochs, rungs = 2 * wanted.score_epochs, 2
    finalist = rungs * proxy_epochs * costs.epoch_alone + 1.5 * _START
    return dataclasses.replace(
        wanted,
        supernet_epochs=0,
        population=-(-scored // generations),
        generations=generations,
        proxy_epochs=proxy_epochs,
        rungs=rungs,
        finalists=max(2, min(wanted.finalists, int(share / finalist))),
    )


class _Search:
    def __init__(
        self,
        recipe: Recipe,
        world: World,
        target: float | str,
        folder: Path,
    ) -> None:
        self.target = target
        self.world, self.folder, self.began = world, folder, time.monotonic()
        self.wanted = recipe.settings.Search or SearchSettings()
        given = self.wanted.space
        self.space: Space = given.build() if given else build({"PPLCNetSpace": {}}, "space")
        if self.wanted.learn_from and self.wanted.sieve != LEARNED:
            raise UserError(
                f"Search.learn_from: only the sieve `{LEARNED}` learns, and Search.sieve is "
                f"{self.wanted.sieve or 'null'}; add Search.sieve: {LEARNED}"
            )
        self.earlier = world.from_main(lambda: earlier(self.space, self.wanted.learn_from))
        self.seed = seed_of(recipe.settings)
        self.recipe = recipe
        self.networks = Networks(recipe, self.space, tuple(image_shape_of(recipe.settings)))
        self.goal = self.networks.named(target) if isinstance(target, str) else target

    def open(self, setting: Setting, cores: Sequence[int]) -> None:
        """Take what the journal has; measure what `target` and `auto` ask for."""
        world = self.world
        facts = {"target": self.target, "setting": str(setting), "seed": self.seed}
        facts["space"] = digest({n: list(options) for n, options in self.space.slots.items()})
        facts["strategy"] = self.wanted.strategy
        if self.wanted.max_parameters:
            facts["max_parameters"] = self.wanted.max_parameters
        if self.wanted.fill:
            facts["fill"] = f"{self.wanted.fill:g}"
        if self.wanted.score_scale != 1:
            facts["score_scale"] = f"{self.wanted.score_scale:g}"
        if self.wanted.sieve:
            facts["sieve"] = f"{self.wanted.sieve} {self.wanted.sieve_keeps:g}"
        if self.wanted.learn_from:
            facts["learn_from"] = ", ".join(self.wanted.learn_from)
        self.journal = Journal(self.folder, facts, writes=world.is_main)
        self.setting = resolved(setting, self.networks, self.seed, world, self.journal)
        bounds = (self.goal, self.wanted.max_parameters)
        self.budget = Budget(
            *(self.networks, self.setting, cores, bounds),
            *(world, self.journal, self.wanted.fill),
        )

    def run(self, minutes: float | None) -> Result:
        folder = self.folder
        logger.info(
            f"search: {len(self.space.slots)} slots, {self.space.count():.2g} combinations, target "
            f"{self.budget.asked} with {self.setting}"
        )
        if self.earlier:
            count, folders = sum(map(len, self.earlier)), ", ".join(self.wanted.learn_from)
            logger.info(f"search: learns from {count} candidates in {folders}")
        main = self.world.is_main
        tree, judging = split(self.recipe, self.wanted.held_out, self.seed, folder / "data", main)
        self.world.barrier()
        with_search = {**tree, "Search": self.recipe.tree.get("Search") or {}}
        judge = SupernetJudge(Recipe.of(with_search), self.networks, self.world, folder)
        try:
            if minutes is None and self.wanted.supernet_epochs:
                judge.require_supernet()
            self.budget.calibrate(self.seed)
            wanted = self.wanted = self._plan(minutes, judge)
            proxies = ProxyJudge(
                *(tree, self.networks, judge.higher_is_better, folder / "networks"),
                judge.whole_epochs,
            )
            fast, score = self.budget.fits, self._short_trainings(proxies)
            if wanted.supernet_epochs:
                judge.train(wanted.supernet_epochs)
                score = judge.score
                fast = self.budget.kept if self.budget.adds_up else self.budget.fits
            known = self.budget.known()
            untrained = Untrained(self.networks, judge.first_images(), self.seed, self.world)
            found = evolve(
                self.space,
                fast,
                lambda candidates: self._scores(candidates, score),
                population=wanted.population,
                generations=wanted.generations,
                seed=self.seed,
                start=[entry["candidate"] for entry in known.values()],
                by_chance=wanted.strategy == "random",
                sieve=self._sieve(untrained),
                kept=self._generation,
            )
            best = found.best(wanted.measured)
            before = self.budget.estimates(best) if self.budget.adds_up else None
            times = self.budget.whole(best, settle=True)
            inside = [c for c in best if self.budget.inside(times[digest(c)])]
            if not inside:
                raise UserError(self.budget.too_slow(times))
            measured = [(times[digest(c)], found.scores[digest(c)]) for c in best]
            choice = self.budget.choice(known)
            names = {digest(entry["candidate"]): name for name, entry in known.items()}
            finalists = [
                Finalist(names.get(key, key), c, times[key], found.scores[key])
                for c, key in ((c, digest(c)) for c in inside[: wanted.finalists])
            ]
            if choice and choice["name"] not in {f.name for f in finalists}:
                own = self._scores([choice["candidate"]], score)[0]
                finalists.append(Finalist(choice["name"], choice["candidate"], choice["ms"], own))
            self._halve(finalists, proxies, judge)
        finally:
            judge.close()
        finalists.sort(key=lambda f: (-len(f.rungs), -f.rungs[-1]))
        if main:
            self._write_recipe(finalists[0], proxies)
        return Result(
            self.budget.target,
            self.budget.asked,
            str(self.setting),
            errors(before, [times[digest(c)] for c in best]) if before else None,
            measured,
            finalists,
            {f.name: self.networks.parameters(f.candidate) for f in finalists},
            untrained.all([f.candidate for f in finalists]),
            choice["name"] if choice else None,
            choices(self.space, [*found.candidates.values()], [*found.scores.values()]),
            len(found.scores),
            "the supernet" if wanted.supernet_epochs else "a short training",
            judging,
            is_main=main,
        )

    def _generation(self, number: int, draw: Callable[[], list[Candidate]]) -> list[Candidate]:
        """The candidates of a generation, which a search that goes on draws no other way."""
        known = self.journal.get("generation", str(number))
        if known is None:
            known = draw()
            self.journal.put("generation", str(number), known)
        return known

    def _sieve(self, untrained: Untrained) -> Sieve | None:
        """What decides which of the drawn candidates are scored."""
        if self.wanted.sieve is None:
            return None
        learned = Learned(self.space, self.world, self.earlier)
        sieves = {LEARNED: (learned, learned.needs)}
        for name in PRICES:
            by = untrained.by(name)
            sieves[name] = (lambda candidates, found, by=by: by(candidates), 0)
        price, needs = sieves[self.wanted.sieve]
        return Sieve(price, self.wanted.sieve_keeps, self.budget.hopeful, needs)

    def _plan(self, minutes: float | None, judge: SupernetJudge) -> SearchSettings:
        """How long the trainings are, by what is left of the time; what the first start has
        planned holds for the others."""
        if minutes is None:
            return self.wanted
        kept = self.journal.get("plan", "")
        if kept is None:
            typical = self.budget.typical()
            epoch, score = judge.seconds_per_epoch(), judge.seconds_per_score()
            mine = Costs(epoch, score, judge.seconds_alone(typical)), time.monotonic() - self.began
            costs, spent = self.world.gather(mine)[0]
            plan = planned(self.wanted, max(0.0, minutes - spent / 60), costs)
            kept = {name: getattr(plan, name) for name in _PLANNED}
            self.journal.put("plan", "", kept)
        plan = dataclasses.replace(self.wanted, **kept)
        scores = f"trainings of {plan.score_epochs} epochs score"
        if plan.supernet_epochs:
            scores = f"a supernet of {plan.supernet_epochs} epochs scores"
        logger.info(
            f"search: in {minutes:g} minutes {scores} {plan.generations} times {plan.population} "
            f"candidates; {plan.finalists} finalists train for {plan.proxy_epochs} epochs and on"
        )
        return plan

    def _scores(
        self, candidates: Sequence[Candidate], score: Callable[[Sequence[Candidate]], list[float]]
    ) -> list[float]:
        """Scores, kept in the journal."""
        new = [c for c in candidates if self.journal.get("score", digest(c)) is None]
        for candidate, value in zip(new, score(new) if new else ()):
            self.journal.put("score", digest(candidate), value)
        values = [self.journal.get("score", digest(c)) for c in candidates]
        if values:
            logger.info(f"search: {len(values)} candidates, scores up to {max(values):.4f}")
        return values

    def _short_trainings(self, proxies: ProxyJudge) -> Callable[[Sequence[Candidate]], list[float]]:
        """Scores by trainings from random weights, where there is no supernet."""
        epochs, scale = self.wanted.score_epochs, self.wanted.score_scale
        return lambda candidates: shared(
            candidates, lambda one: proxies.score(one, epochs, scale=scale), self.world
        )

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
        if not self.wanted.supernet_epochs:
            return proxies.score(candidate, epochs)
        path = proxies.folder / digest(candidate) / "start.pdparams"
        path.parent.mkdir(parents=True, exist_ok=True)
        return proxies.score(candidate, epochs, judge.weights(candidate, path))

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
