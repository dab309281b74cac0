"""From the sections of a checked configuration to the objects of a run.

One function per object, each given the settings and what it depends on. Read before: train.py,
which puts them together.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppcls_lite.config.check import build, checked
from ppcls_lite.config.node import Node
from ppcls_lite.config.registry import REQUIRED
from ppcls_lite.config.settings import RecipeSettings, SplitSettings
from ppcls_lite.data import cache
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import BatchSampler
from ppcls_lite.data.transforms.compose import shape_of
from ppcls_lite.distill.teachers import fix_views
from ppcls_lite.engine import amp, ranks
from ppcls_lite.engine.checkpoint_manager import CheckpointManager
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.ema import CorrectedAverage, ExponentialAverage, needs_warmup
from ppcls_lite.engine.evaluate import Evaluator, Forward, dygraph
from ppcls_lite.engine.loggers import Logger
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.record import Recorder
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.writer import Writer
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.graph_forward import GraphForward
from ppcls_lite.inference.preprocess import accepts
from ppcls_lite.inference.viewed_forward import ViewedForward
from ppcls_lite.inference.views import views_of
from ppcls_lite.kernels.native import threads
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.models.create import load_inside
from ppcls_lite.recipe.names import class_num_of
from ppcls_lite.report.pictures import RunPictures

logger = logging.getLogger("ppcls_lite")
VISUALDL = "VisualDL"  # what Global.use_visualdl means among the loggers


def run_dir_of(settings: RecipeSettings) -> Path:
    """Where a recipe's run lies. Raises ConfigError for an address: it has to be a folder."""
    run = settings.Global
    if "://" in run.output_dir:
        raise ConfigError(
            f"Global.output_dir: {run.output_dir} is an address; a run folder lies on a file "
            "system, where files are replaced at once and locked. Mount the store, or copy the "
            "folder (docs/distributed.md, Where checkpoints lie)"
        )
    return Path(run.output_dir) / (run.run_name or settings.Arch.entry.name)


def image_shape_of(settings: RecipeSettings) -> Sequence[int]:
    """(C, H, W) of the network's input: `Global.image_shape`, or what `Infer.transforms` give.

    Of a network that sees photographs through windows, that of a window. Where the two contradict
    each other, as in PaddleClas's recipes for MobileNetV4, the images that prediction gives decide,
    and the log says so.
    """
    stated = settings.Global.image_shape
    given = shape_of([node.build() for node in settings.Infer.transforms])
    views = views_of(settings.Infer.tiling, settings.Infer.tta)
    if views and views.window:
        given = (given[0], *views.window)
    if stated and -1 not in given and not accepts(tuple(stated), given):
        logger.warning(
            "Global.image_shape is %s, but Infer.transforms give images of %s: the latter is used",
            *(list(stated), list(given)),
        )
        return given
    return stated or given


def build_loss(nodes: Sequence[Node], dataset: Any, epochs: int | None = None) -> CombinedLoss:
    """The weighted terms of `Loss.Train` or `Loss.Eval`, for batches of `dataset`.

    epochs: of a training.
    """
    losses = [node.build(load_inside, epochs=epochs) for node in nodes]
    for loss in losses:
        loss.see(dataset)
    if dataset.none_labelled and all(loss.divides_by != "images" for loss in losses):
        raise ConfigError(
            f"{nodes[0].path}: {', '.join(node.entry.name for node in nodes)} learns from labels, "
            f"but no image of {dataset.source} has one: nothing would be learnt. Give a list with "
            "labels, or distil from a teacher (DistillationDMLLoss)"
        )
    return CombinedLoss(losses, dataset.all_labelled)


def build_metrics(settings: RecipeSettings, split: str, beside: Sequence[str] = ()) -> list[Any]:
    """The metrics of `Metric.Train` or `Metric.Eval`, and those `beside` that these do not name.

    One that scores answers, not outputs, takes a `postprocess`: that of a prediction, so that both
    have one place for their thresholds. Where there is no prediction, one that has a default for
    it keeps that.
    """
    nodes = list((getattr(settings.Metric, split, None) if settings.Metric else None) or ())
    named = {node.entry.name for node in nodes}
    nodes += [checked({name: {}}, "metric") for name in beside if name not in named]
    context: dict[str, Any] = {"class_num": class_num_of(settings)}
    asking = [node for node in nodes if _takes(node, "postprocess")]
    if asking and settings.Infer is None:
        needing = [node for node in asking if _takes(node, "postprocess", required=True)]
        if needing:
            raise ConfigError(
                f"Infer.PostProcess: is missing; {needing[0].path} scores what it makes of the "
                "outputs"
            )
    elif asking:
        answer = settings.Infer.PostProcess
        if _takes(answer, "class_id_map_file"):  # a score needs no names
            answer = answer.given(class_id_map_file=None)
        context["postprocess"] = answer.build()
    return [node.build(**context) for node in nodes]


def _takes(node: Node, name: str, required: bool = False) -> bool:
    """Whether a component has an argument, or needs it."""
    own = (argument for argument in node.entry.arguments if argument.name == name)
    return any(argument.default is REQUIRED or not required for argument in own)


def training_metrics(settings: RecipeSettings, task: Supervised) -> list[Any]:
    """`Metric.Train`, and the first that can be shown of a distillation's other networks."""
    metrics = build_metrics(settings, "Train")
    beside = ([m.of_network(name) for name in task.others] for m in metrics)
    return metrics + next((found for found in beside if any(found)), [])


def build_datasets(settings: RecipeSettings, splits: Sequence[str]) -> dict[str, Any]:
    """The data sets of the given splits; reads their lists, but no image yet."""
    datasets = {}
    for split in splits:
        section = getattr(settings.DataLoader, split)
        if section is None:
            hint = " or set Global.eval_during_train: false" if split == "Eval" else ""
            raise ConfigError(f"DataLoader.{split}: is missing; add it{hint}")
        context = {"class_num": class_num_of(settings), "seed": seed_of(settings)}
        datasets[split] = section.dataset.build(**context)
    if "Eval" in datasets:
        _number_classes(settings, datasets)
    _cache_decoded(settings, datasets)
    if "Train" in datasets:
        fix_views(settings, datasets["Train"])
    return datasets


def _number_classes(settings: RecipeSettings, datasets: dict[str, Any]) -> None:
    """Give the evaluation's classes the numbers that the network has learnt them by."""
    train, section = datasets.get("Train"), settings.DataLoader.Train
    if train is None and section is not None and datasets["Eval"].numbers_classes:
        try:
            train = section.dataset.build(class_num=class_num_of(settings), seed=seed_of(settings))
        except UserError as error:
            logger.warning(
                "the classes of DataLoader.Eval are numbered by themselves, because those of the "
                f"training set are not known: {error}"
            )
    if train is not None:
        datasets["Eval"].number_as(train)


def _cache_decoded(settings: RecipeSettings, datasets: dict[str, Any]) -> None:
    """Give the data sets the caches that `dataset.cache` asks for."""
    taken, processes = 0, int(os.environ.get("PADDLE_LOCAL_SIZE") or 1)
    for split, dataset in datasets.items():
        extras = getattr(settings.DataLoader, split).dataset.extras
        if extras.cache is None:
            continue
        decoder = dataset.decoder()
        if extras.cache == "ram":
            dataset.keep_decoded(cache.in_memory(dataset.paths, taken, processes))
            taken += cache.size_of(dataset.paths) * processes
        else:
            kept = cache.on_disk(dataset.paths, extras.cache_dir, split.lower(), decoder.backend)
            dataset.keep_decoded(kept)


def share_batch(settings: RecipeSettings, world: World) -> RecipeSettings:
    """With `Global.cpu_processes`, each rank's share of the batch and of the data workers."""
    wanted = settings.Global.cpu_processes
    if wanted == 1 or world.size == 1:
        return settings
    if wanted not in ("auto", world.size):
        raise ConfigError(
            f"Global.cpu_processes: is {wanted}, but {world.size} processes were started; leave "
            "it out under paddle.distributed.launch"
        )
    sampler = settings.DataLoader.Train.sampler
    key = ranks.size_key(sampler.entry.arguments)
    part = ranks.batch_of(world.size, sampler.get(key))
    sections = {}
    for split in ("Train", "Eval"):
        section: SplitSettings | None = getattr(settings.DataLoader, split)
        if section is not None:
            workers = -(-section.loader.num_workers // world.size)
            loader = dataclasses.replace(section.loader, num_workers=workers)
            sections[split] = dataclasses.replace(section, loader=loader)
    sections["Train"] = dataclasses.replace(sections["Train"], sampler=sampler.given(**{key: part}))
    logger.info(
        f"{world.size} processes train on {part} images each: the batch stays as it is, batch "
        "normalisation sees the images of its process"
    )
    data = dataclasses.replace(settings.DataLoader, **sections)
    return dataclasses.replace(settings, DataLoader=data)


def build_loader(settings: RecipeSettings, split: str, dataset: Any, world: World) -> Loader:
    """Sampler, batch transforms and worker processes around a data set."""
    section: SplitSettings = getattr(settings.DataLoader, split)
    training = split == "Train"
    sampler = section.sampler.build(seed=seed_of(settings))
    sampler.see(dataset)
    sampler.bind(len(dataset), world.size, world.rank, evaluation=not training)
    mixers = section.dataset.extras.batch_transform_ops or ()
    return Loader(
        dataset,
        sampler,
        [mixer.build(class_num=class_num_of(settings)) for mixer in mixers],
        section.loader.num_workers,
        section.loader.use_shared_memory,
        training=training,
        skip_bad=settings.Global.eval_skip_bad,
        max_bad_ratio=settings.Global.max_bad_ratio,
    )


def build_evaluator(
    settings: RecipeSettings, task: Supervised, dataset: Any, world: World, closer: bool = False
) -> Evaluator:
    """The evaluation on `DataLoader.Eval`, by its metrics and those of its data set's kind.

    closer: with those that keep the answer for each image.
    """
    beside = (*dataset.default_metrics, *(dataset.closer_metrics if closer else ()))
    metrics = build_metrics(settings, "Eval", beside)
    for metric in metrics:
        metric.see(dataset)
    nodes = settings.Loss.Eval if settings.Loss else None
    loss = build_loss(nodes, dataset) if nodes else None
    loader = build_loader(settings, "Eval", dataset, world)
    # a loss may look at what is not exported
    apart = loss is not None and len(getattr(task.model, "outputs", ())) > 1
    forward = dygraph if apart else build_forward(settings)
    return Evaluator(task, loader, metrics, loss, world, forward)


def build_forward(settings: RecipeSettings) -> Forward:
    """How an evaluation runs the network: `Global.eval_engine`.

    With mixed precision the network runs itself.
    """
    mode, amp_on = settings.Global.eval_engine, settings.AMP is not None and settings.AMP.use_amp
    plain = mode == "dygraph" or amp_on
    forward: Forward = dygraph if plain else GraphForward(mode, threads())
    infer = settings.Infer
    views = views_of(infer.tiling, infer.tta) if infer else None
    return ViewedForward(views, forward) if views else forward


def build_plan(settings: RecipeSettings, sampler: BatchSampler) -> Plan:
    """How long the run is, and how often it does what.

    With `Global.iters` its epochs, of `Global.eval_steps` updates or as many as the training list
    gives, are those of `sampler` from now on.
    """
    run = settings.Global
    asked = {f.name: getattr(run, f.name) for f in dataclasses.fields(Plan)}
    if run.iters is not None:
        steps = run.eval_steps or math.ceil(len(sampler) / run.update_freq)
        asked["epochs"] = math.ceil(run.iters / steps)
        sampler.stretch(steps * run.update_freq, run.iters * run.update_freq)
    return Plan(**asked)


def build_writer(
    settings: RecipeSettings, run_dir: Path, dataset: Any, labels: list[str] | None, world: World
) -> Writer:
    """Records, checkpoints and pictures of the run, with what is needed to show images."""
    run = settings.Global
    _, normalizer = dataset.split_tail()
    scale = (normalizer.mean.tolist(), normalizer.std.tolist()) if normalizer else (None, None)
    kept = ("save_interval", "save_steps", "save_minutes", "keep_last", "keep_best")
    return Writer(
        run_dir,
        Recorder(run_dir, build_loggers(settings) if world.is_main else (), _compared(settings)),
        CheckpointManager(run_dir, **{name: getattr(run, name) for name in kept}),
        RunPictures(run_dir, *scale, dataset.draw, partial(dataset.caption, names=labels)),
        labels,
        active=world.is_main,
    )


def build_loggers(settings: RecipeSettings) -> list[Logger]:
    """`Global.loggers`, and VisualDL where `Global.use_visualdl` asks for it."""
    nodes = list(settings.Global.loggers)
    if settings.Global.use_visualdl and all(n.entry.class_name != VISUALDL for n in nodes):
        return [*(node.build() for node in nodes), build(VISUALDL, "logger")]
    return [node.build() for node in nodes]


def _compared(settings: RecipeSettings) -> dict[str, Any]:
    """The hyper-parameters by which loggers compare runs."""
    lr = settings.Optimizer.arguments.get("lr")
    compared = {"Arch": settings.Arch.entry.name, "Optimizer": settings.Optimizer.entry.name}
    length = "epochs" if settings.Global.iters is None else "iters"
    compared |= {length: getattr(settings.Global, length), "seed": seed_of(settings)}
    if lr is not None:
        compared |= {f"lr.{k}": v for k, v in lr.arguments.items() if isinstance(v, (int, float))}
    return compared


def build_precision(
    settings: RecipeSettings, model: nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> amp.Precision:
    """Mixed precision, if the section `AMP` asks for it; level O2 changes model and optimizer."""
    if settings.AMP is None or not settings.AMP.use_amp:
        return amp.Precision()
    options = dataclasses.asdict(settings.AMP)
    del options["use_amp"]
    return amp.mixed(model, optimizer, **options)


def build_ema(settings: RecipeSettings, model: nn.Layer, updates: int) -> ExponentialAverage | None:
    """The averaged weights, if there is a section `EMA`; `updates` are those of the whole run."""
    if settings.EMA is None:
        return None
    decay, warmup = settings.EMA.decay, settings.EMA.use_warmup
    corrected = settings.EMA.type == "threshold"
    grows = settings.EMA.warmup_power is not None
    if grows and (corrected or warmup is False):
        other = "type: threshold" if corrected else "use_warmup: false"
        raise ConfigError(f"EMA.warmup_power: says how the decay grows, which {other} decides")
    warmup = True if grows else warmup
    if corrected and warmup is False:
        raise ConfigError("EMA.use_warmup: the decay always grows with type: threshold; remove it")
    if needs_warmup(decay, updates) and not corrected:
        left = (
            f"of the initial weights {decay**updates:.0%} would be left after {updates:,} updates"
        )
        if warmup is None:
            logger.info(
                f"EMA: {left}, so the decay grows from 0.1 (unless EMA.use_warmup is false)"
            )
        elif not warmup:
            logger.warning(f"EMA: {left}: lower EMA.decay, or leave EMA.use_warmup out")
        warmup = True if warmup is None else warmup
    better = settings.EMA.ships == "better"
    which = "the better one of each evaluation" if better else "the averaged one"
    logger.info(
        f"EMA with decay {settings.EMA.decay}: both networks are evaluated; {which} decides about "
        "best_model and is in every .pdparams; what is being trained is in *_raw.pdparams"
    )
    cycle = settings.EMA.cycle
    return (CorrectedAverage if corrected else ExponentialAverage)(
        model,
        decay,
        bool(warmup),
        keeps_warmup=settings.EMA.use_warmup is None and not corrected and not grows,
        better_ships=better,
        restart_after=cycle and cycle * (updates // settings.Global.epochs),
        warmup_power=settings.EMA.warmup_power,
        warmup_gamma=settings.EMA.warmup_gamma,
    )


def seed_of(settings: RecipeSettings) -> int:
    """`Global.seed`; start.py has replaced `false` by a random one."""
    return int(settings.Global.seed)


def scale_rate(settings: RecipeSettings, schedule: Any, batch_size: int, world: World) -> None:
    """Multiply the rates by total batch / `Optimizer.lr.base_batch_size`, if the recipe has one.

    Without it, a total batch other than the one that the recipe states is worth a warning.
    """
    run = settings.Global
    total = batch_size * world.size * run.update_freq
    cards = f"{batch_size} images x {world.size} processes"
    found = f"{total} images ({cards}{f' x update_freq {run.update_freq}' * (run.update_freq > 1)})"
    base, meant = settings.Optimizer.arguments["lr"].extras.base_batch_size, run.total_batch_size
    if base:
        schedule.scale = total / base
        logger.info(
            f"an update takes {found}: the learning rate of base_batch_size {base} is multiplied "
            f"by {schedule.scale:g}"
        )
    elif meant and meant != total:
        logger.warning(
            f"an update takes {found}, but this recipe's learning rate is meant for "
            f"{meant}. To scale the rate: -o Optimizer.lr.base_batch_size={meant}; to keep it and "
            f"this message away: -o Global.total_batch_size={total}"
        )
