"""From a checked recipe and its data sets to a Trainer.

In this order: loader, plan, loss, networks, optimizer, evaluation, records.
Read before: train.py. Read next: parts.py (each object).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppcls_lite import kernels
from ppcls_lite.config.complete import Recipe
from ppcls_lite.data.loader import Loader
from ppcls_lite.distill.teacher_cache import TeacherCache
from ppcls_lite.distill.teachers import prepare_teachers, weights_checksum
from ppcls_lite.engine.callbacks import Callback
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.origin import Origin, flat_recipe
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.recipe import parts
from ppcls_lite.recipe.classes import count_classes_in_data
from ppcls_lite.recipe.names import class_names
from ppcls_lite.recipe.networks import build_task
from ppcls_lite.recipe.start import Tree, start
from ppcls_lite.recipe.trial import try_network


@dataclass(frozen=True)
class Training:
    """A training that can begin: its loop, its loaders by split, the cache of its teachers."""

    trainer: Trainer
    loaders: dict[str, Loader]
    cache: TeacherCache | None


def begin(tree: Tree | Recipe) -> tuple[Recipe, World, dict[str, Any]]:
    """A recipe that can be trained, as far as it shows without a look into the images; the ranks;
    the data sets by split.

    Raises UserError for mistakes in the configuration, the lists of the data or the environment.
    """
    recipe, world = start(tree, ("Loss", "Optimizer", "DataLoader"))
    recipe = count_classes_in_data(recipe)
    try_network(recipe.settings)
    splits = ("Train", "Eval") if recipe.settings.Global.eval_during_train else ("Train",)
    return recipe, world, parts.build_datasets(recipe.settings, splits)


def compose(
    recipe: Recipe,
    datasets: dict[str, Any],
    run_dir: Path,
    world: World,
    callbacks: Sequence[Callback] = (),
    model: nn.Layer | None = None,
) -> Training:
    """The training of `recipe` on `datasets`, at its start; its records belong into `run_dir`.

    model: the network that learns, instead of a new one as `Arch` describes it.
    """
    settings = recipe.settings
    run = settings.Global
    labels = class_names(settings, datasets["Train"])
    settings = parts.share_batch(settings, world)
    loader = parts.build_loader(settings, "Train", datasets["Train"], world)
    plan = parts.build_plan(settings, loader.batch_sampler)
    steps = plan.steps(len(loader))

    loss = parts.build_loss(settings.Loss.Train, datasets["Train"], run.epochs)
    task = build_task(settings, loss, world, model)
    images = plan.epochs * len(loader) * loader.batch_sampler.batch_size
    cache = prepare_teachers(settings, task, datasets["Train"], world, labels, images)
    learning = nn.LayerList([task.trained, loss])
    kernels.prepare(learning, run.cpu_kernels, paddle.get_device(), run.cpu_kernels_dtype)
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
    return Training(Trainer(state, loader, plan, writer, evaluator, callbacks), loaders, cache)


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
