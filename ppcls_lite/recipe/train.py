"""`train`: a checked recipe becomes a run in its folder.

Read before: start.py. Read next: compose.py (the objects), engine/trainer.py (the loop).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from paddle import nn

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump
from ppcls_lite.engine import log, rng, run_folder
from ppcls_lite.engine.callbacks import Callback, FitResult
from ppcls_lite.engine.epoch_table import EpochTable
from ppcls_lite.engine.run_status import RunStatus
from ppcls_lite.recipe import parts
from ppcls_lite.recipe.closing import closing_words
from ppcls_lite.recipe.compose import begin, compose
from ppcls_lite.recipe.names import compare_names
from ppcls_lite.recipe.start import Tree, finish_loaders, logged, scan_data, warn
from ppcls_lite.report.facts import write_facts
from ppcls_lite.report.page import write_page
from ppcls_lite.report.summary import RUN

logger = logging.getLogger("ppcls_lite")


def train(
    tree: Tree | Recipe,
    callbacks: Sequence[Callback] = (),
    model: nn.Layer | None = None,
    *,
    closing: bool = True,
) -> FitResult:
    """Train the recipe's network in `<Global.output_dir>/<Arch.name>`, from start or resumed.

    callbacks: told how the run goes, in their order; see `Callback`.
    model: the network to train, from the weights that it has and in place, instead of a new one. It
    has the layers that `Arch` describes, so that the recipe can evaluate and export what is saved.
    closing: end with a summary and the commands that come next.

    Raises UserError for mistakes in the configuration, the data or the environment, all of them
    before the first step, and for a loss that is not finite.
    """
    recipe, world, datasets = begin(tree)
    settings = recipe.settings
    run = settings.Global
    run_dir = run_folder.prepare(parts.run_dir_of(settings))
    with logged(run_dir, settings, world, held=True), contextlib.ExitStack() as owner:
        if world.is_main:
            owner.enter_context(run_folder.owned(run_dir))
            if not run.checkpoints:
                run_folder.require_free(run_dir, run.if_exists)
        for note in recipe.notes:
            logger.info(note)
        warn(recipe)
        scan_data(datasets, world)
        compare_names(settings, datasets["Train"])
        status = RunStatus()
        watching = [status, EpochTable(), *callbacks]
        training = compose(recipe, datasets, run_dir, world, watching, model)
        trainer = training.trainer
        if not world.is_main:  # the initial weights are alike, dropout must not be
            rng.seed(parts.seed_of(settings), world.rank)
        source = trainer.resume(run.checkpoints) if run.checkpoints else None
        trainer.rehearse()
        if world.is_main:  # nothing can refuse this start any more
            if source is None or source.parent.resolve() != run_dir.resolve():
                run_folder.make_room(run_dir, run.if_exists)
            log.release(run_dir)
            if not trainer.is_complete:
                run_folder.write_config(run_dir, dump(recipe.tree))
                run_folder.write_versions(run_dir)
        try:
            with status.failing():
                result = trainer.fit()
        finally:
            if training.cache:
                training.cache.flush()
            finish_loaders(training.loaders, run_dir / "bad_files", world)
        if world.is_main and result.exit_code == 0:
            images = {split: len(dataset) for split, dataset in datasets.items()}
            numbers = sum(p.size for p in trainer.state.task.model.parameters())
            facts = {"best": result.best, "images": images, "parameters": int(numbers)}
            write_facts(run_dir / RUN, facts)
            write_page(run_dir)
        if world.is_main and closing and not result.is_pause:
            logger.info(closing_words(result, settings, status.seconds))
    return result
