"""What every command of a recipe begins with: check, device, ranks, seeds, log, the data's scan.

Read next: train.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import paddle

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import is_run, load_config
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.scan import scan
from ppcls_lite.engine import device, log, rng, run_folder
from ppcls_lite.engine.distributed import World, connect
from ppcls_lite.engine.origin import flat_recipe
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.networks import shipped
from ppcls_lite.recipe.parts import (
    run_dir_of,
    seed_of,
)
from ppcls_lite.recipe.preprocessing import follow_weights
from ppcls_lite.system import launchers
from ppcls_lite.system.files import write_text
from ppcls_lite.system.machine import installed_versions

logger = logging.getLogger("ppcls_lite")
Tree = dict[str, Any]
BEST = "best_model"  # what a run calls its best weights


def start(tree: Tree | Recipe, sections: Sequence[str]) -> tuple[Recipe, World]:
    """Check the tree unless it is a checked recipe, choose the device, join the other processes
    of the run if there are any, and seed all generators.

    The settings that come back have the seed that is used, and `Global.class_num` in `Arch`.
    """
    recipe = follow_weights(Recipe.of(tree))
    settings = recipe.settings
    missing = [name for name in sections if getattr(settings, name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: is missing; this command needs the section")
    run, arch = settings.Global, settings.Arch
    if arch.arguments.get("class_num") is None and run.class_num is not None:
        arch = arch.given(class_num=run.class_num)
    device.select(run.device)
    world = connect(run.stall_timeout)
    if world.size > 1:
        packages = {"python": platform.python_version(), **installed_versions(run_folder.PACKAGES)}
        world.require_same(
            flat_recipe(recipe.tree)
            | {f"version of {name}": version for name, version in packages.items()}
        )
    if run.seed is False:
        run = dataclasses.replace(run, seed=world.from_main(rng.random_seed))
    rng.seed(int(run.seed))
    settings = dataclasses.replace(settings, Arch=arch, Global=run)
    return dataclasses.replace(recipe, settings=settings), world


def start_alone(tree: Tree | Recipe, sections: Sequence[str]) -> Recipe:
    count = launchers.processes()
    if count > 1:
        raise UserError(
            f"a launcher started {count} processes, but this command works in one: start it alone"
        )
    return start(tree, sections)[0]


@contextlib.contextmanager
def logged(
    run_dir: Path, settings: RecipeSettings, world: World, held: bool = False
) -> Iterator[None]:
    """Log to the run folder's train.log as well, mistakes included, and tell the other ranks.

    `held`: nothing is written there before `log.release`, if the folder holds an earlier run.
    """
    log.setup(run_dir, world.rank, held)
    logger.info(
        f"device {paddle.get_device()}, processes {world.size}, seed {seed_of(settings)}, "
        f"run folder {run_dir}"
    )
    try:
        with world.telling_failures():
            yield
    except UserError as error:
        logger.error(f"stopped: {error}", extra=log.FILE_ONLY)  # the command line prints it
        if not run_folder.holds_run(run_dir):
            log.release(run_dir)
        raise


def warn(recipe: Recipe) -> None:
    """Log what of a recipe is worth a warning."""
    for warning in recipe.warnings:
        logger.warning(warning)


def scan_data(datasets: dict[str, Any], world: World) -> None:
    if world.size > 1:
        world.require_same(
            {
                f"{what} of DataLoader.{split}": value
                for split, dataset in datasets.items()
                for what, value in dataset.digests().items()
            }
        )
    report = world.from_main(lambda: scan(datasets))
    for warning in report.warnings:
        logger.warning(warning)
    report.raise_errors()
    counts = ", ".join(f"{split} {len(dataset):,}" for split, dataset in datasets.items())
    logger.info(f"images: {counts}")


def with_weights(recipe: Recipe, verb: str) -> Recipe:
    """With the weights to `verb`: those that the recipe names, or else the best of its run.

    `Arch.pretrained` names some, unless a run has trained on from them.
    Raises ConfigError where there are none.
    """
    settings = recipe.settings
    best, pretrained = run_dir_of(settings) / BEST, shipped(settings).pretrained
    if settings.Global.pretrained_model:
        return recipe
    left = best.with_suffix(".pdparams").is_file()
    if left and (not pretrained or _trained_on(best.parent, recipe)):
        run = dataclasses.replace(settings.Global, pretrained_model=str(best))
        return dataclasses.replace(recipe, settings=dataclasses.replace(settings, Global=run))
    if not pretrained:
        raise ConfigError(
            f"Global.pretrained_model: there are no weights to {verb}, and no run in "
            f"{best.parent} has left its best ones; train first, or give them with "
            f"-o Global.pretrained_model={best}"
        )
    return recipe


def _trained_on(run_dir: Path, recipe: Recipe) -> bool:
    """Whether the run there has trained the networks of this recipe."""
    if not is_run(run_dir):
        return False
    theirs, ours = (tree.get("Arch") for tree in (load_config(run_dir), recipe.tree))
    counted = {"class_num": None}
    return isinstance(theirs, dict) and {**theirs, **counted} == {**ours, **counted}


def say_weights(settings: RecipeSettings) -> str:
    """Log which weights a command works on; returns their name."""
    given = settings.Global.pretrained_model or f"those of {shipped(settings).path}.pretrained"
    logger.info(f"weights: {given}")
    return Path(settings.Global.pretrained_model or "pretrained").name.removesuffix(".pdparams")


def finish_loaders(loaders: dict[str, Loader], stem: Path, world: World) -> None:
    """End the worker processes; leave the unreadable images in `<stem>.txt`, and say how many.

    Other ranks than 0 leave theirs in `<stem>_rankN.txt`: this also works when one has failed.
    """
    lines = []
    for split, loader in loaders.items():
        loader.close()
        lines += [f"{split}\t{file}\t{reason}\n" for file, reason in loader.bad_files.items()]
    path = stem.with_name(f"{stem.name}{'' if world.is_main else f'_rank{world.rank}'}.txt")
    path.unlink(missing_ok=True)  # of an earlier run
    if lines:
        write_text(path, "".join(sorted(lines)))
        logger.warning(f"{len(lines)} unreadable images, listed in {path}")
