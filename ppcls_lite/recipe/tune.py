"""`tune`: which of several settings of a recipe trains best, by successive halving.

All settings are trained for a ninth of the recipe's epochs, and past the warm-up; the best third
of them for a third, the best of those to the end (Jamieson and Talwalkar 2016, arXiv 1502.07943).
Every training has the schedule of a whole run from the start, and goes on where it was stopped, so
that nothing is trained twice and the winner is a complete run. Each lies in a run folder of its
own; a search that ended early goes on with the same command.
Read before: train.py. Read next: search_space.py.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump, load_config
from ppcls_lite.config.node import Node
from ppcls_lite.engine import log, run_folder
from ppcls_lite.engine.callbacks import Callback, FitResult, Progress
from ppcls_lite.engine.run_list import read_status
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.parts import run_dir_of
from ppcls_lite.recipe.search_space import Values, candidates
from ppcls_lite.recipe.train import train
from ppcls_lite.system import launchers
from ppcls_lite.system.files import write_text

logger = logging.getLogger("ppcls_lite")
KEEP = 3  # one of so many goes on to the next rung, for so many times as many epochs
RUNGS = 3


@dataclass(frozen=True)
class Trial:
    """A setting with its run folder, and how far it came; `score` is None before an evaluation."""

    number: int
    values: Values
    run_dir: Path
    epoch: int
    score: float | None
    main: str
    higher_is_better: bool
    failed: str = ""

    @property
    def rank(self) -> tuple[float, ...]:
        """The smaller, the better: by epochs trained, then by score."""
        if self.score is None or self.failed:
            return (1, 0, 0.0, self.number)
        value = -self.score if self.higher_is_better else self.score
        return (0, -self.epoch, value, self.number)


@dataclass(frozen=True)
class Search:
    """What `tune` found: the trials, best first, and how it ended.

    complete: whether the last rung is done. exit_code: as of the training that a signal stopped.
    folder: of the trials, tune.json and best.yaml, the winner's recipe.
    """

    trials: Sequence[Trial]
    folder: Path
    complete: bool
    exit_code: int = 0


def tune(
    config: str | Path,
    tries: Sequence[str],
    minutes: float | None = None,
    trials: int | None = None,
    overrides: Sequence[str] = (),
) -> Search:
    """Compare settings of the recipe file `config`; see the module.

    tries: what to try, `KEY=0.1,0.3,1` or `KEY=LOW..HIGH`. minutes: then the search ends, and the
    same call continues it. trials: how many settings, where not all combinations are meant.

    Raises UserError for mistakes in any of the recipes, before the first is trained, and where a
    search with other settings lies in the folder already.
    """
    log.setup()
    if launchers.processes() > 1:
        raise UserError("tune runs in one process: start it without a launcher")
    base = Recipe.of(load_config(config, overrides))
    run, data = base.settings.Global, base.settings.DataLoader
    if not run.eval_during_train or data is None or data.Eval is None:
        raise ConfigError("DataLoader.Eval: is missing, or Global.eval_during_train is off: tune "
                          "compares scores of evaluations")  # fmt: skip
    if run.epochs is None:
        raise ConfigError("Global.epochs: is null; tune counts in epochs")
    settings = candidates(tries, trials, int(run.seed or 0))
    if len(settings) < 2:
        raise UserError("--try: there is only one setting, so there is nothing to compare")
    folder = Path(run.output_dir) / "tune"
    recipes = [_recipe(config, overrides, values, folder, n) for n, values in _numbered(settings)]
    with run_folder.claimed(folder, "a search of settings"):
        _require_same(folder, {"config": dump(base.tree), "settings": settings})
        until = math.inf if minutes is None else time.monotonic() + 60 * minutes
        return _halve(settings, recipes, folder, run.epochs, until)


def _halve(
    settings: Sequence[Values],
    recipes: Sequence[Recipe],
    folder: Path,
    whole: int,
    until: float,
) -> Search:
    """Train all settings a little, the best of them to `whole` epochs."""
    alive = list(range(len(settings)))
    failed: dict[int, str] = {}
    for rung in range(RUNGS):
        share = math.ceil(whole / KEEP ** (RUNGS - 1 - rung))
        epochs = min(whole, max(share, *map(_tells, recipes)))
        logger.info(f"[tune] {len(alive)} settings, to epoch {epochs} of {whole}")
        for index in alive:
            found = _trial(index, settings, recipes)
            if found.epoch >= epochs or index in failed:
                continue
            try:
                result = _continue(recipes[index], found, _StopAt(epochs, until))
            except UserError as error:  # it diverged, for example
                failed[index] = str(error).splitlines()[0]
                logger.warning(f"[tune] setting {index + 1} failed: {failed[index]}")
                continue
            if result.stopped_by is not None or time.monotonic() > until:
                return _ended(folder, settings, recipes, failed, False, result.exit_code)
        ranked = sorted((_trial(i, settings, recipes, failed) for i in alive), key=lambda t: t.rank)
        kept = [t for t in ranked if t.score is not None and not t.failed]
        alive = [t.number - 1 for t in kept[: max(1, math.ceil(len(alive) / KEEP))]]
        if not alive:
            raise UserError(f"tune: no setting could be trained: {next(iter(failed.values()), '')}")
    return _ended(folder, settings, recipes, failed, True)


def _tells(recipe: Recipe) -> int:
    """The first epoch whose score says something of the rate: that after the warm-up."""
    schedule = recipe.settings.Optimizer.arguments.get("lr")
    warm = schedule.arguments.get("warmup_epoch") if isinstance(schedule, Node) else None
    return math.ceil(warm or 0) + 1


class _StopAt(Callback):
    """Ends a training at an epoch that was evaluated, or when the time is over."""

    def __init__(self, epochs: int, until: float) -> None:
        self._epochs, self._until = epochs, until

    def on_step(self, run: Progress, values: Mapping[str, float]) -> None:
        if time.monotonic() > self._until:
            run.stop("the end of --minutes", is_pause=True)

    def on_epoch(self, run: Progress, done: Mapping[str, Any]) -> None:
        if done["epoch"] >= self._epochs and done["eval"]:
            run.stop("tune", is_pause=True)
        self.on_step(run, {})


def _numbered(settings: Sequence[Values]) -> Sequence[tuple[int, Values]]:
    return list(enumerate(settings, start=1))


def _recipe(
    config: str | Path, overrides: Sequence[str], values: Values, folder: Path, number: int
) -> Recipe:
    """The checked recipe of one setting, with a place of its own."""
    place = f"Global.output_dir={folder / f'trial_{number:03}'}"
    given = [f"{key}={value}" for key, value in values.items()]
    return Recipe.of(load_config(config, [*overrides, *given, place, "Global.checkpoints=auto"]))


def _continue(recipe: Recipe, found: Trial, stop: Callback) -> FitResult:
    logger.info(f"[tune] setting {found.number}: {in_words(found.values)}")
    return train(recipe, [stop], closing=False)  # the leaderboard comes last


def _trial(
    index: int,
    settings: Sequence[Values],
    recipes: Sequence[Recipe],
    failed: Mapping[int, str] | None = None,
) -> Trial:
    """How far a setting has come, from its run folder."""
    run_dir = run_dir_of(recipes[index].settings)
    known = read_status(run_dir)
    return Trial(
        number=index + 1,
        values=settings[index],
        run_dir=run_dir,
        epoch=int(known.get("epoch") or 0),
        score=known.get("best"),
        main=str(known.get("main") or "score"),
        higher_is_better=known.get("higher_is_better") is not False,
        failed=(failed or {}).get(index, ""),
    )


def _require_same(folder: Path, asked: dict[str, Any]) -> None:
    """Keep what is asked for as tune.json; UserError where another search lies there."""
    path = folder / "tune.json"
    if path.exists():
        try:
            same = json.loads(path.read_text(encoding="utf-8")) == asked
        except ValueError:
            same = False
        if not same:
            raise UserError(
                f"{folder} holds a search with another recipe or other settings: repeat its "
                "command to continue it, or search elsewhere with -o Global.output_dir=PATH"
            )
        return
    write_text(path, json.dumps(asked, indent=1) + "\n")


def _ended(
    folder: Path,
    settings: Sequence[Values],
    recipes: Sequence[Recipe],
    failed: Mapping[int, str],
    complete: bool,
    exit_code: int = 0,
) -> Search:
    every = (_trial(i, settings, recipes, failed) for i in range(len(settings)))
    ranked = sorted(every, key=lambda trial: trial.rank)
    if ranked[0].score is not None:
        winner = recipes[ranked[0].number - 1]
        tree = {**winner.tree, "Global": {**winner.tree["Global"]}}
        tree["Global"]["output_dir"] = str(folder.parent)
        tree["Global"]["checkpoints"] = None
        write_text(folder / "best.yaml", dump(tree))
    return Search(ranked, folder, complete, exit_code)


def in_words(values: Values) -> str:
    """The setting as overrides of a command."""
    return " ".join(f"-o {key}={value}" for key, value in values.items())


def leaderboard(search: Search) -> str:
    """The trials as a table, best first."""
    lines = [f"{'rank':>4}  {'score':<16}  {'epochs':>6}  setting"]
    for place, trial in enumerate(search.trials, start=1):
        score = "" if trial.score is None else f"{trial.main} {trial.score:.5g}"
        score = "failed" if trial.failed else score
        setting = " ".join(f"{key}={value}" for key, value in trial.values.items())
        lines.append(f"{place:>4}  {score:<16}  {trial.epoch:>6}  {setting}")
    return "\n".join(lines)
