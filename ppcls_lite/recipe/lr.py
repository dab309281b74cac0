"""`find_rate`: the learning rate of a recipe by trial, before its training.

Read before: compose.py. Read next: ../engine/rate_sweep.py, which has the rule.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from paddle import nn

from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine import log, run_folder
from ppcls_lite.engine.rate_sweep import LEAST, MARGIN, RateCurve, sweep
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.compose import begin, compose
from ppcls_lite.recipe.parts import run_dir_of
from ppcls_lite.recipe.start import Tree, finish_loaders, logged, scan_data, warn
from ppcls_lite.report.rates import rate_picture
from ppcls_lite.system import launchers
from ppcls_lite.system.files import free_name, write_text

logger = logging.getLogger("ppcls_lite")
STEPS = 240, 720  # the latter where the loss did not fall clearly in the former


@dataclass(frozen=True)
class FoundRate:
    """What `find_rate` found.

    curve: the rates that were tried and their losses. suggestion: the value for
    `Optimizer.lr.learning_rate`, None where the loss never fell. stated: what the recipe has there,
    None where its schedule has no such key. scale: by what `base_batch_size` multiplies both.
    seconds: of an update, the median. updates: of an epoch. folder: rates.json, rates.png and the
    log.
    """

    curve: RateCurve
    suggestion: float | None
    stated: float | None
    scale: float
    folder: Path
    seconds: float
    updates: int


def find_rate(
    tree: Tree | Recipe,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int | None = None,
    model: nn.Layer | None = None,
) -> FoundRate:
    """Try `steps` learning rates from `low` to `high`, one update each, and suggest one.

    Without `steps` it is 240, and where these tell nothing 720.
    Nothing is trained by it: a `model` that is given has its weights back. What was found is left
    in a new folder beside the run folder, `NAME.lr-N`. One process, the recipe's batch.

    Raises UserError for mistakes in the configuration, the data or the environment.
    """
    if not (0 < low < high < float("inf")) or (steps or LEAST) < LEAST:
        raise UserError(
            f"find_rate: expected 0 < low < high and at least {LEAST} steps, found low {low:g}, "
            f"high {high:g}, {steps} steps"
        )
    count = launchers.processes()
    if count > 1:
        raise UserError(
            f"a launcher started {count} processes, but this works in one: start it alone"
        )
    recipe, world, datasets = begin(tree)
    settings = recipe.settings
    if settings.Global.checkpoints:
        raise ConfigError(
            "Global.checkpoints: a rate is looked for from the start; give the weights to start "
            "from in Global.pretrained_model"
        )
    folder = run_folder.prepare(free_name(run_dir_of(settings), "lr"))
    with logged(folder, settings, world):
        warn(recipe)
        scan_data(datasets, world)
        training = compose(recipe, datasets, folder, world, (), model)
        ends = [time.perf_counter()]
        try:
            for count in STEPS if steps is None else (steps,):
                with log.bar("[lr]", count) as bar:

                    def show(rate: float, loss: float, bar: log.Bar = bar) -> None:
                        ends.append(time.perf_counter())
                        bar.update()
                        bar.tell([log.short("rate", rate), log.short("loss", loss)])

                    curve = sweep(training.trainer, low, high, count, show)
                if curve.suggestion is not None:
                    break
        finally:
            finish_loaders(training.loaders, folder / "bad_files", world)
        schedule = training.trainer.state.schedule
        found = FoundRate(
            curve,
            None if curve.suggestion is None else float(f"{curve.suggestion / schedule.scale:.2g}"),
            settings.Optimizer.arguments["lr"].arguments.get("learning_rate"),
            schedule.scale,
            folder,
            float(np.median(np.diff(ends))) if len(ends) > 1 else 0.0,
            training.trainer.state.steps,
        )
        _write(found)
        logger.info(f"{in_words(found)}. Written: {folder / 'rates.png'}, {folder / 'rates.json'}")
    return found


def in_words(found: FoundRate) -> str:
    """The suggestion and its reason, or why there is none."""
    curve = found.curve
    if found.suggestion is None:
        return (
            f"no suggestion: in {len(curve.rates)} updates the loss did not fall by more than its "
            "noise. Try more steps, another range, or look at the data"
        )
    edge = curve.lowest == curve.rates[-1]
    more = "; it still fell at the last rate: try a higher --high" if edge else ""
    scaled = f"; base_batch_size multiplies it by {found.scale:g}" if found.scale != 1 else ""
    stated = f"; the recipe has {found.stated:g}" if found.stated is not None else ""
    return (
        f"suggestion: {found.suggestion:g}, because the smoothed loss is lowest at "
        f"{curve.lowest:.2g}, {MARGIN:g} times as high{more}{scaled}{stated}"
    )


def _write(found: FoundRate) -> None:
    curve = found.curve
    values = {"suggestion": found.suggestion, "stated": found.stated, "scale": found.scale}
    values |= {"lowest": curve.lowest, "rates": list(curve.rates)}
    values |= {"losses": list(curve.losses), "smoothed": curve.smoothed}
    write_text(found.folder / "rates.json", json.dumps(values, indent=1) + "\n")
    if curve.rates:
        marks = [("suggestion", curve.suggestion), ("lowest loss", curve.lowest)]
        marks = [(name, rate) for name, rate in marks if rate is not None]
        series = curve.rates, curve.losses, curve.smoothed
        rate_picture(*series, marks, found.folder / "rates.png")
