"""The composition root: a checked configuration becomes data, a network, a task and a Trainer.

`train`, `evaluate`, `infer` and `export` take the plain tree that `load_config` returns. This is
the one module that knows all rooms; each of them is handed what it needs and knows no other.
Read next: engine/trainer.py (the loop), data/loader.py, models/create.py, inference/export.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_lite.config import Node, check
from ppcls_lite.config_file import dump
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.scan import scan
from ppcls_lite.engine import device, log, plots, rng, run_folder
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.record import Recorder
from ppcls_lite.engine.trainer import FitResult, Trainer, steps_per_epoch
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.export import ExportReport, export_model
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.labels import read_label_file
from ppcls_lite.inference.output import ResultFile, table_head, table_lines
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.losses.combined import CombinedLoss
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.pretrained import resolve_pretrained
from ppcls_lite.models.weights import load_weights
from ppcls_lite.settings import RecipeSettings, SplitSettings
from ppcls_lite.tasks import Supervised

logger = logging.getLogger("ppcls_lite")
Tree = dict[str, Any]


def train(tree: Tree) -> FitResult:
    """Train the recipe's network in `<Global.output_dir>/<Arch.name>`, from start or resumed.

    Raises UserError for mistakes in the configuration, the data or the environment, all of them
    before the first step, and for a loss that is not finite.
    """
    notes: list[str] = []
    settings = _start(tree, ("Loss", "Optimizer", "DataLoader"), notes)
    run = settings.Global
    datasets = build_datasets(settings, ("Train", "Eval") if run.eval_during_train else ("Train",))
    run_dir = run_folder.prepare(run_dir_of(settings))
    with _logged(run_dir, settings):
        run_folder.write_config(run_dir, dump(tree))
        run_folder.write_versions(run_dir)
        for note in notes:
            logger.info(note)
        _scan(datasets)
        loader = build_loader(settings, "Train", datasets["Train"])
        steps = steps_per_epoch(len(loader), run.update_freq)
        model = build_model(settings, training=True)
        description = settings.Optimizer.build(epochs=run.epochs, step_each_epoch=steps)
        task = Supervised(model, build_loss(settings.Loss.Train))
        loaders, evaluator = {"Train": loader}, None
        if "Eval" in datasets:
            evaluator = build_evaluator(settings, task, datasets["Eval"])
            loaders["Eval"] = evaluator.loader
        trainer = Trainer(
            task,
            description.build(model),
            description.lr,
            loader,
            run_dir,
            epochs=run.epochs,
            metrics=build_metrics(settings, "Train"),
            evaluator=evaluator,
            recorder=build_recorder(settings, run_dir, datasets["Train"]),
            labels=labels_of(settings),
            update_freq=run.update_freq,
            print_batch_step=run.print_batch_step,
            save_interval=run.save_interval,
            eval_interval=run.eval_interval,
            start_eval_epoch=run.start_eval_epoch,
        )
        if run.checkpoints:
            trainer.resume(run.checkpoints)
        try:
            return trainer.fit()
        finally:
            _finish_loaders(loaders, run_dir / "bad_files.txt")


def evaluate(tree: Tree) -> dict[str, float]:
    """Score the recipe's weights on `DataLoader.Eval`; the first value is the main one.

    Also writes eval.json and, for one label per image, the scores of each class (per_class.txt)
    and confusion_matrix.png into the run folder.
    """
    settings = _start(tree, ("DataLoader",))
    _require_weights(settings, "evaluate")
    datasets = build_datasets(settings, ("Eval",))
    run_dir = run_folder.prepare(run_dir_of(settings))
    with _logged(run_dir, settings):
        _scan(datasets)
        model = build_model(settings)
        loss = build_loss(settings.Loss.Eval) if settings.Loss and settings.Loss.Eval else None
        evaluator = build_evaluator(settings, Supervised(model, loss), datasets["Eval"])
        with log.bar("[Eval]", len(evaluator.loader)) as bar:
            scores = evaluator.run(on_batch=bar.update)
        logger.info(f"[Eval][Avg]{log.numbers(scores)}")
        names = labels_of(settings)
        for metric in evaluator.metrics:
            if isinstance(metric, ConfusionMatrix):
                path = run_dir / "per_class.txt"
                path.write_text(metric.table(names) + "\n", encoding="utf-8")
                plots.confusion_matrix(metric.matrix, run_dir / "confusion_matrix.png", names)
                logger.info(f"scores of each class: {path}, {run_dir / 'confusion_matrix.png'}")
        _finish_loaders({"Eval": evaluator.loader}, run_dir / "eval_bad_files.txt")
        text = json.dumps({"weights": settings.Global.pretrained_model, **scores}, indent=2)
        (run_dir / "eval.json").write_text(text + "\n", encoding="utf-8")
    return scores


def infer(tree: Tree) -> int:
    """Predict `Infer.infer_imgs` or `Infer.infer_list` with the network itself, unexported.

    Prints a table; with `Infer.save_dir` the results go to a file there as well. Returns the exit
    status: 1 if some image could not be read.
    """
    settings = _start(tree, ("Infer",))
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
            model_name=settings.Arch.entry.name,
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


def export(tree: Tree) -> ExportReport:
    """Write the network as an inference model to `Global.save_inference_dir`, checked."""
    settings = _start(tree, ("Infer",))
    _require_weights(settings, "export")
    log.setup()
    report = export_model(
        build_model(settings),
        settings.Global.save_inference_dir,
        image_shape=settings.Global.image_shape,
        transforms=tree["Infer"]["transforms"],
        postprocess=tree["Infer"]["PostProcess"],
        labels=labels_of(settings, required=True),
        model_name=settings.Arch.entry.name,
        add_softmax=settings.Arch.extras.infer_add_softmax,
    )
    logger.info(str(report))
    return report


def run_dir_of(settings: RecipeSettings) -> Path:
    """Where a recipe's run lies."""
    return Path(settings.Global.output_dir) / settings.Arch.entry.name


def class_num_of(settings: RecipeSettings) -> int:
    """The class count of the network, which data and metrics follow."""
    return settings.Arch.get("class_num")


def build_model(settings: RecipeSettings, training: bool = False) -> Backbone:
    """The network with its weights: `Global.pretrained_model`, `Arch.pretrained`, or random.

    A training from `Arch.pretrained` may have other classes: a classifier that differs is left
    random, and the log says so. `Global.pretrained_model` has to fit unless `Global.replace_head`
    is set. With `Global.checkpoints` the trainer loads the state later.
    """
    model, extras = settings.Arch.build(), settings.Arch.extras
    own = settings.Global.pretrained_model
    if own:
        load_weights(model, own, replace_head=training and settings.Global.replace_head)
    elif extras.pretrained and not settings.Global.checkpoints:
        path = extras.pretrained
        if path is True:
            path = resolve_pretrained(settings.Arch.entry.name, extras.use_ssld)
        load_weights(model, path, replace_head=training)
    return model


def build_loss(nodes: Sequence[Node]) -> CombinedLoss:
    """The weighted terms of `Loss.Train` or `Loss.Eval`."""
    return CombinedLoss([node.build() for node in nodes])


def build_metrics(settings: RecipeSettings, split: str) -> list[Any]:
    """The metrics of `Metric.Train` or `Metric.Eval`."""
    nodes = getattr(settings.Metric, split, None) if settings.Metric else None
    return [node.build(class_num=class_num_of(settings)) for node in nodes or ()]


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
    return datasets


def build_loader(settings: RecipeSettings, split: str, dataset: Any) -> Loader:
    """Sampler, batch transforms and worker processes around a data set."""
    section: SplitSettings = getattr(settings.DataLoader, split)
    training = split == "Train"
    sampler = section.sampler.build(seed=seed_of(settings))
    sampler.bind(len(dataset), evaluation=not training)
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


def build_evaluator(settings: RecipeSettings, task: Supervised, dataset: Any) -> Evaluator:
    """The evaluation on `DataLoader.Eval`, with a confusion matrix for one label per image."""
    metrics = build_metrics(settings, "Eval")
    single_label = dataset.labels is not None and np.ndim(dataset.labels) == 1
    if single_label and not any(isinstance(metric, ConfusionMatrix) for metric in metrics):
        metrics.append(ConfusionMatrix())
    loss = build_loss(settings.Loss.Eval) if settings.Loss and settings.Loss.Eval else None
    return Evaluator(task, build_loader(settings, "Eval", dataset), metrics, loss)


def build_recorder(settings: RecipeSettings, run_dir: Path, dataset: Any) -> Recorder:
    """metrics.jsonl and VisualDL, with what is needed to show images and compare runs."""
    _, normalizer = dataset.split_tail()
    lr = settings.Optimizer.arguments.get("lr")
    compared = {"Arch": settings.Arch.entry.name, "Optimizer": settings.Optimizer.entry.name}
    compared |= {"epochs": settings.Global.epochs, "seed": seed_of(settings)}
    if lr is not None:
        compared |= {f"lr.{k}": v for k, v in lr.arguments.items() if isinstance(v, (int, float))}
    return Recorder(
        run_dir,
        settings.Global.use_visualdl,
        None if normalizer is None else tuple(normalizer.mean.tolist()),
        None if normalizer is None else tuple(normalizer.std.tolist()),
        compared,
    )


def seed_of(settings: RecipeSettings) -> int:
    """`Global.seed`; `_start` has replaced `false` by a random one."""
    return int(settings.Global.seed)


def labels_of(settings: RecipeSettings, required: bool = False) -> list[str] | None:
    """The class names of `Infer.PostProcess.class_id_map_file`, None if the key is not there.

    For tables and pictures a list that is missing or of another class count is left out; with
    `required` it is a UserError, because a wrong name on a prediction would mislead.
    """
    node = settings.Infer.PostProcess if settings.Infer else None
    file = node.arguments.get("class_id_map_file") if node else None
    if not file:
        return None
    try:
        names = read_label_file(file, node.arguments.get("delimiter"))
        if len(names) != class_num_of(settings):
            raise UserError(
                f"Infer.PostProcess.class_id_map_file: {file} names {len(names)} classes, but "
                f"Arch.class_num is {class_num_of(settings)}; give the list that fits the weights"
            )
    except UserError as error:
        if required:
            raise
        logger.info(f"classes are shown by number: {error}")
        return None
    return names


class _DygraphEngine:
    """Runs a network as a Predictor wants it."""

    def __init__(self, model: Backbone) -> None:
        self.model = model

    def run(self, array: np.ndarray) -> list[np.ndarray]:
        with paddle.no_grad():
            return [self.model(paddle.to_tensor(array)).numpy()]


def _start(tree: Tree, sections: Sequence[str], notes: list[str] | None = None) -> RecipeSettings:
    """Check the tree (see `check` for `notes`), choose the device and seed all generators."""
    settings = check(tree, notes)
    missing = [name for name in sections if getattr(settings, name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: is missing; this command needs the section")
    for name, wanted in (("AMP", settings.AMP and settings.AMP.use_amp), ("EMA", settings.EMA)):
        if wanted:
            raise ConfigError(f"{name}: is not available in this version; leave the section out")
    if settings.Arch.arguments.get("class_num") is None and settings.Global.class_num is not None:
        settings.Arch.arguments["class_num"] = settings.Global.class_num
    ranks = int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)
    if ranks > 1:  # each rank would train a network of its own
        raise UserError(
            f"paddle.distributed.launch started {ranks} processes, but this version trains in one. "
            "Start it without launch; -o Global.update_freq=N makes one update of N batches, the "
            "total batch of N cards"
        )
    device.select(settings.Global.device)
    if settings.Global.seed is False:
        settings.Global.seed = int(np.random.SeedSequence().generate_state(1)[0])
    rng.seed(seed_of(settings))
    return settings


@contextlib.contextmanager
def _logged(run_dir: Path, settings: RecipeSettings) -> Iterator[None]:
    """Log to the run folder's train.log as well, mistakes included."""
    log.setup(run_dir)
    logger.info(f"device {paddle.get_device()}, seed {seed_of(settings)}, run folder {run_dir}")
    try:
        yield
    except UserError as error:
        logger.error(f"stopped: {error}", extra=log.FILE_ONLY)  # the command line prints it
        raise


def _scan(datasets: dict[str, Any]) -> None:
    report = scan(datasets)
    for warning in report.warnings:
        logger.warning(warning)
    report.raise_errors()
    counts = ", ".join(f"{split} {len(dataset):,}" for split, dataset in datasets.items())
    logger.info(f"images: {counts}")


def _require_weights(settings: RecipeSettings, verb: str) -> None:
    if not settings.Global.pretrained_model and not settings.Arch.extras.pretrained:
        raise ConfigError(
            f"Global.pretrained_model: there are no weights to {verb}; give them with "
            f"-o Global.pretrained_model={run_dir_of(settings) / 'best_model'}"
        )


def _finish_loaders(loaders: dict[str, Loader], path: Path) -> None:
    """End the worker processes; leave the unreadable images in `path`, and say how many."""
    lines = []
    for split, loader in loaders.items():
        loader.close()
        lines += [f"{split}\t{file}\t{reason}\n" for file, reason in loader.bad_files.items()]
    path.unlink(missing_ok=True)  # of an earlier run
    if lines:
        path.write_text("".join(sorted(lines)), encoding="utf-8")
        logger.warning(f"{len(lines)} unreadable images, listed in {path}")


def _one_key(node: Tree) -> Tree:
    """`{name: X, ...}` as `{X: {...}}`."""
    if "name" not in node:
        return node
    return {node["name"]: {k: v for k, v in node.items() if k != "name"}}
