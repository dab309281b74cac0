"""`train`: a checked recipe becomes data, a network, a task and a Trainer, in this order.

Read before: start.py. Read next: parts.py (each object), engine/trainer.py (the loop).
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import paddle

from ppcls_lite import kernels
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump
from ppcls_lite.data.loader import Loader
from ppcls_lite.distill.teachers import prepare_teachers, weights_checksum
from ppcls_lite.engine import log, rng, run_folder
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.origin import Origin, flat_recipe
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import FitResult, Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.recipe import parts
from ppcls_lite.recipe.classes import count_classes_in_data
from ppcls_lite.recipe.networks import build_task
from ppcls_lite.recipe.start import Tree, finish_loaders, logged, scan_data, start, warn
from ppcls_lite.recipe.trial import try_network

logger = logging.getLogger("ppcls_lite")


def train(tree: Tree | Recipe) -> FitResult:
    """Train the recipe's network in `<Global.output_dir>/<Arch.name>`, from start or resumed.

    Raises UserError for mistakes in the configuration, the data or the environment, all of them
    before the first step, and for a loss that is not finite.
    """
    recipe, world = start(tree, ("Loss", "Optimizer", "DataLoader"))
    recipe = count_classes_in_data(recipe)
    settings = recipe.settings
    run = settings.Global
    try_network(settings)
    splits = ("Train", "Eval") if run.eval_during_train else ("Train",)
    datasets = parts.build_datasets(settings, splits)
    run_dir = run_folder.prepare(parts.run_dir_of(settings))
    with logged(run_dir, settings, world, held=True), contextlib.ExitStack() as owner:
        if world.is_main:
            owner.enter_context(run_folder.owned(run_dir))
            if not run.checkpoints:
                run_folder.require_free(run_dir, run.if_exists)
        for note in recipe.notes:
            logger.info(note)
        warn(recipe)
        labels = parts.class_names(settings, datasets["Train"])
        scan_data(datasets, world)
        parts.compare_names(settings, datasets["Train"])
        settings = parts.share_batch(settings, world)
        loader = parts.build_loader(settings, "Train", datasets["Train"], world)
        plan = parts.build_plan(settings, loader.batch_sampler)
        steps = plan.steps(len(loader))

        loss = parts.build_loss(settings.Loss.Train, datasets["Train"], run.epochs)
        task = build_task(settings, loss, world)
        cache = prepare_teachers(settings, task, datasets["Train"], world, labels)
        kernels.prepare(task.trained, run.cpu_kernels, paddle.get_device())
        length = {"epochs": plan.epochs, "step_each_epoch": steps, "iters": run.iters}
        description = settings.Optimizer.build(**length)
        parts.scale_rate(settings, description.lr, loader.batch_sampler.batch_size, world)
        optimizer = description.build(task.trained)
        precision = parts.build_precision(settings, task.trained, optimizer)

        loaders, evaluator = {"Train": loader}, None
        if "Eval" in datasets:
            evaluator = parts.build_evaluator(settings, task, datasets["Eval"], world)
            loaders["Eval"] = evaluator.loader
        writer = parts.build_writer(settings, run_dir, datasets["Train"], labels, world)
        state = TrainingState(
            *(task, optimizer, description.lr),
            steps=steps,
            metrics=parts.training_metrics(settings, task),
            precision=precision,
            ema=parts.build_ema(settings, task.model, run.iters or plan.epochs * steps),
            world=world,
            origin=_origin(recipe, task, loader, datasets, world),
        )
        trainer = Trainer(state, loader, plan, writer, evaluator)
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
            return trainer.fit()
        finally:
            if cache:
                cache.flush()
            finish_loaders(loaders, run_dir / "bad_files", world)


def _origin(
    recipe: Recipe, task: Supervised, loader: Loader, datasets: dict[str, Any], world: World
) -> Origin:
    """What the run is made of, as its checkpoints keep it."""
    run = recipe.settings.Global
    return Origin(
        flat_recipe(recipe.tree),
        world.from_main(
            lambda: {
                f"{what} of DataLoader.{split}": value
                for split, dataset in datasets.items()
                for what, value in dataset.digests().items()
            }
        ),
        {f"weights of {name}": weights_checksum(net) for name, net in task.frozen.items()},
        loader.batch_sampler.batch_size * world.size * run.update_freq,
        run.resume_changed_data,
    )
