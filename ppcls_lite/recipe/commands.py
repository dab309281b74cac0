"""The composition root: a checked configuration becomes data, a network, a task and a Trainer.

`train`, `evaluate`, `infer` and `export` take the plain tree that `load_config` returns. This is
the one module that knows all rooms; each of them is handed what it needs and knows no other.
Read next: engine/trainer.py (the loop), data/loader.py, models/create.py, inference/export.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_lite import kernels
from ppcls_lite.config.check import check
from ppcls_lite.config.file import dump
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.scan import scan
from ppcls_lite.distill.teachers import prepare_teachers
from ppcls_lite.engine import device, log, plots, rng, run_folder
from ppcls_lite.engine.distributed import World, connect, ranks_wanted
from ppcls_lite.engine.trainer import FitResult, Trainer, steps_per_epoch
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.cli.output import ResultFile, table_head, table_lines
from ppcls_lite.inference.export import ExportReport, Format, export_model
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.recipe.networks import build_model, build_task, shipped, task_to_score
from ppcls_lite.recipe.parts import (
    build_datasets,
    build_ema,
    build_evaluator,
    build_keeper,
    build_loader,
    build_loss,
    build_metrics,
    build_precision,
    build_recorder,
    labels_of,
    run_dir_of,
    scale_rate,
    seed_of,
    share_batch,
    teacher_metrics,
)

logger = logging.getLogger("ppcls_lite")
_CHECKED = 8  # images of Infer.infer_imgs that an export is compared on
Tree = dict[str, Any]


def train(tree: Tree) -> FitResult:
    """Train the recipe's network in `<Global.output_dir>/<Arch.name>`, from start or resumed.

    Raises UserError for mistakes in the configuration, the data or the environment, all of them
    before the first step, and for a loss that is not finite.
    """
    notes: list[str] = []
    settings, world = _start(tree, ("Loss", "Optimizer", "DataLoader"), notes)
    run = settings.Global
    datasets = build_datasets(settings, ("Train", "Eval") if run.eval_during_train else ("Train",))
    run_dir = run_folder.prepare(run_dir_of(settings))
    with _logged(run_dir, settings, world):
        if world.is_main:
            run_folder.write_config(run_dir, dump(tree))
            run_folder.write_versions(run_dir)
        for note in notes:
            logger.info(note)
        _scan(datasets, world)
        share_batch(settings, world)
        loader = build_loader(settings, "Train", datasets["Train"], world)
        steps = steps_per_epoch(len(loader), run.update_freq)
        task = build_task(settings, build_loss(settings.Loss.Train), world)
        cache = prepare_teachers(settings, task, datasets["Train"], world)
        kernels.prepare(task.trained, run.cpu_kernels, paddle.get_device())
        description = settings.Optimizer.build(epochs=run.epochs, step_each_epoch=steps)
        scale_rate(settings, description.lr, loader.batch_sampler.batch_size, world)
        optimizer = description.build(task.trained)
        precision = build_precision(settings, task.trained, optimizer)
        loaders, evaluator = {"Train": loader}, None
        if "Eval" in datasets:
            evaluator = build_evaluator(settings, task, datasets["Eval"], world)
            loaders["Eval"] = evaluator.loader
        trainer = Trainer(
            task,
            optimizer,
            description.lr,
            loader,
            run_dir,
            epochs=run.epochs,
            metrics=build_metrics(settings, "Train") + teacher_metrics(settings, task),
            evaluator=evaluator,
            recorder=build_recorder(settings, run_dir, datasets["Train"], world),
            labels=labels_of(settings),
            update_freq=run.update_freq,
            print_batch_step=run.print_batch_step,
            eval_interval=run.eval_interval,
            start_eval_epoch=run.start_eval_epoch,
            keeper=build_keeper(settings, run_dir),
            precision=precision,
            ema=build_ema(settings, task.model),
            early_stop=run.early_stop,
            max_minutes=run.max_minutes,
            world=world,
        )
        if not world.is_main:  # the initial weights are alike, dropout must not be
            rng.seed(seed_of(settings), world.rank)
        if run.checkpoints:
            trainer.resume(run.checkpoints)
        try:
            return trainer.fit()
        finally:
            if cache:
                cache.flush()
            _finish_loaders(loaders, run_dir / "bad_files", world)


def evaluate(tree: Tree) -> dict[str, float]:
    """Score the recipe's weights on `DataLoader.Eval`; the first value is the main one.

    Also writes eval.json and, for one label per image, the scores of each class (per_class.txt)
    and confusion_matrix.png into the run folder.
    """
    settings, world = _start(tree, ("DataLoader",))
    _require_weights(settings, "evaluate")
    datasets = build_datasets(settings, ("Eval",))
    run_dir = run_folder.prepare(run_dir_of(settings))
    with _logged(run_dir, settings, world):
        _scan(datasets, world)
        evaluator = build_evaluator(settings, task_to_score(settings), datasets["Eval"], world)
        with log.bar("[Eval]", len(evaluator.loader)) as bar:
            scores = evaluator.run(on_batch=bar.update)
        logger.info(f"[Eval][Avg]{log.numbers(scores)}")
        names = labels_of(settings)
        for metric in evaluator.metrics if world.is_main else ():
            if isinstance(metric, ConfusionMatrix):
                path = run_dir / "per_class.txt"
                path.write_text(metric.table(names) + "\n", encoding="utf-8")
                plots.confusion_matrix(metric.matrix, run_dir / "confusion_matrix.png", names)
                logger.info(f"scores of each class: {path}, {run_dir / 'confusion_matrix.png'}")
        _finish_loaders({"Eval": evaluator.loader}, run_dir / "eval_bad_files", world)
        if world.is_main:
            text = json.dumps({"weights": settings.Global.pretrained_model, **scores}, indent=2)
            (run_dir / "eval.json").write_text(text + "\n", encoding="utf-8")
    return scores


def infer(tree: Tree) -> int:
    """Predict `Infer.infer_imgs` or `Infer.infer_list` with the network itself, unexported.

    Prints a table; with `Infer.save_dir` the results go to a file there as well. Returns the exit
    status: 1 if some image could not be read.
    """
    settings = _start_alone(tree, ("Infer",))
    _require_weights(settings, "predict with")
    wanted = settings.Infer
    option = "infer_list" if wanted.infer_list else "infer_imgs"
    source = getattr(wanted, option)
    if not source:
        raise ConfigError("Infer.infer_imgs: expected a file or folder: -o Infer.infer_imgs=PATH")
    files = find_images([source], f"Infer.{option}:")
    log.setup()
    model = build_model(settings)
    model.eval()
    predictor = Predictor.of(
        InferenceSpec(
            model_name=shipped(settings).node.entry.name,
            transform_ops=tree["Infer"]["transforms"],
            postprocess=_one_key(tree["Infer"]["PostProcess"]),
            image_shape=None,
            output="logits",
            versions={},
        ),
        _DygraphEngine(model),
    )
    failed = 0
    with contextlib.ExitStack() as stack:
        keep = None
        if wanted.save_dir:
            keep = stack.enter_context(ResultFile(Path(wanted.save_dir) / "infer.jsonl"))
        print(table_head())
        for result in predictor.stream(files, wanted.batch_size, keep_going=True):
            failed += "error" in result
            print(*table_lines(result), sep="\n")
            if keep:
                keep.write(result)
    return 1 if failed else 0


def export(tree: Tree, format: Format = "paddle") -> ExportReport:
    """Write the network as an inference model to `Global.save_inference_dir`, checked.

    `format`: "paddle", "onnx" or "both".
    """
    settings = _start_alone(tree, ("Infer",))
    _require_weights(settings, "export")
    log.setup()
    report = export_model(
        build_model(settings),
        settings.Global.save_inference_dir,
        image_shape=settings.Global.image_shape,
        transforms=tree["Infer"]["transforms"],
        postprocess=tree["Infer"]["PostProcess"],
        labels=labels_of(settings, required=True),
        model_name=shipped(settings).node.entry.name,
        add_softmax=settings.Arch.extras.infer_add_softmax,
        sample_images=_some_real_images(settings),
        format=format,
    )
    logger.info(str(report))
    return report


def _some_real_images(settings: RecipeSettings) -> list[str] | None:
    """Up to eight of `Infer.infer_imgs` to check an export on, if they are there."""
    source = settings.Infer.infer_imgs
    if not source or not Path(source).exists():
        return None
    files = find_images([source], "Infer.infer_imgs")
    return [str(file) for file in files[:: max(1, len(files) // _CHECKED)][:_CHECKED]]


class _DygraphEngine:
    """Runs a network as a Predictor wants it."""

    def __init__(self, model: Backbone) -> None:
        self.model = model

    def run(self, array: np.ndarray) -> list[np.ndarray]:
        with paddle.no_grad():
            return [self.model(paddle.to_tensor(array)).numpy()]


def _start(
    tree: Tree, sections: Sequence[str], notes: list[str] | None = None
) -> tuple[RecipeSettings, World]:
    """Check the tree (see `check` for `notes`), choose the device, join the other processes of
    the run if there are any, and seed all generators.
    """
    settings = check(tree, notes)
    missing = [name for name in sections if getattr(settings, name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: is missing; this command needs the section")
    if settings.Arch.arguments.get("class_num") is None and settings.Global.class_num is not None:
        settings.Arch.arguments["class_num"] = settings.Global.class_num
    device.select(settings.Global.device)
    world = connect()
    if settings.Global.seed is False:
        settings.Global.seed = world.from_main(rng.random_seed)
    rng.seed(seed_of(settings))
    return settings, world


def _start_alone(tree: Tree, sections: Sequence[str]) -> RecipeSettings:
    if ranks_wanted() > 1:
        raise UserError(
            f"paddle.distributed.launch started {ranks_wanted()} processes, but this command "
            "works in one: start it without launch"
        )
    return _start(tree, sections)[0]


@contextlib.contextmanager
def _logged(run_dir: Path, settings: RecipeSettings, world: World) -> Iterator[None]:
    """Log to the run folder's train.log as well, mistakes included, and tell the other ranks."""
    log.setup(run_dir, world.rank)
    logger.info(
        f"device {paddle.get_device()}, processes {world.size}, seed {seed_of(settings)}, "
        f"run folder {run_dir}"
    )
    try:
        with world.telling_failures():
            yield
    except UserError as error:
        logger.error(f"stopped: {error}", extra=log.FILE_ONLY)  # the command line prints it
        raise


def _scan(datasets: dict[str, Any], world: World) -> None:
    report = world.from_main(lambda: scan(datasets))
    for warning in report.warnings:
        logger.warning(warning)
    report.raise_errors()
    counts = ", ".join(f"{split} {len(dataset):,}" for split, dataset in datasets.items())
    logger.info(f"images: {counts}")


def _require_weights(settings: RecipeSettings, verb: str) -> None:
    if not settings.Global.pretrained_model and not shipped(settings).pretrained:
        raise ConfigError(
            f"Global.pretrained_model: there are no weights to {verb}; give them with "
            f"-o Global.pretrained_model={run_dir_of(settings) / 'best_model'}"
        )


def _finish_loaders(loaders: dict[str, Loader], stem: Path, world: World) -> None:
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
        path.write_text("".join(sorted(lines)), encoding="utf-8")
        logger.warning(f"{len(lines)} unreadable images, listed in {path}")


def _one_key(node: Tree) -> Tree:
    """`{name: X, ...}` as `{X: {...}}`."""
    if "name" not in node:
        return node
    return {node["name"]: {k: v for k, v in node.items() if k != "name"}}
