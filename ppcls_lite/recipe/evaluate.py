"""`evaluate`: weights are scored on `DataLoader.Eval`. Read before: start.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine import log, run_folder
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.main_score import NOT_FINITE
from ppcls_lite.errors import UserError
from ppcls_lite.recipe.certainty import EVALUATIONS, SCORES, weights_checksum
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.names import class_names
from ppcls_lite.recipe.networks import task_to_score
from ppcls_lite.recipe.parts import build_datasets, build_evaluator, run_dir_of
from ppcls_lite.recipe.start import (
    Tree,
    finish_loaders,
    logged,
    say_weights,
    scan_data,
    start,
    warn,
    with_weights,
)
from ppcls_lite.report.facts import write_facts
from ppcls_lite.report.sheets import draw_sheets
from ppcls_lite.system.files import write_text

logger = logging.getLogger("ppcls_lite")


def evaluate(tree: Tree | Recipe) -> dict[str, float]:
    """Score the recipe's weights on `DataLoader.Eval`; the first value is the main one.

    Writes eval.json into the run folder, and into eval/NAME there, NAME being that of the weights,
    what the metrics report: tables, the answer for each image, the mistakes. The worst of it and
    how sure the scores are is logged.
    """
    recipe, world = start(tree, ("DataLoader",))
    recipe = with_weights(recipe, "evaluate")
    settings = count_classes_in_weights(recipe.settings)
    datasets = build_datasets(settings, ("Eval",))
    run_dir = run_folder.prepare(run_dir_of(settings))
    with logged(run_dir, settings, world):
        warn(recipe)
        name = say_weights(settings)
        scan_data(datasets, world)
        task = task_to_score(settings)
        evaluator = build_evaluator(settings, task, datasets["Eval"], world, closer=True)
        with log.bar("[Eval]", len(evaluator.loader)) as bar:
            scores = evaluator.run(on_batch=bar.update)
        logger.info(f"[Eval][Avg]{log.numbers(scores)}")
        finish_loaders({"Eval": evaluator.loader}, run_dir / "eval_bad_files", world)
        if world.is_main:
            intervals = evaluator.intervals()
            names = class_names(settings, datasets["Eval"])
            _tell(evaluator, run_dir / EVALUATIONS / name, names, intervals)
            facts = {"weights": settings.Global.pretrained_model, **scores}
            facts |= {"intervals": intervals} if intervals else {}
            write_text(run_dir / "eval.json", json.dumps(facts, indent=2) + "\n")
            about = {"sha256": weights_checksum(settings), "scores": scores, "intervals": intervals}
            write_facts(run_dir / EVALUATIONS / name / SCORES, about)
        if NOT_FINITE in scores:
            raise UserError(
                f"{scores[NOT_FINITE]:,.0f} images of DataLoader.Eval have NaN or infinite "
                "outputs, which count as wrong: look at the weights (did they diverge?) and at the "
                f"transforms; the scores are in {run_dir / 'eval.json'}"
            )
    return scores


def _tell(
    evaluator: Evaluator,
    folder: Path,
    names: list[str] | None,
    intervals: Mapping[str, Sequence[Any]],
) -> None:
    """Write the reports into `folder` and log the worst of them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = evaluator.report(folder, names, evaluator.kept())
    files += draw_sheets(folder)
    for name, (low, high, method) in intervals.items():
        logger.info(f"[Eval] {name}: 95 % interval {low:.4f} to {high:.4f} ({method})")
    summary = evaluator.summary(names)
    if summary:
        logger.info("\n".join(["the worst first:", *summary]))
    if files:
        logger.info(f"written to {folder}: {', '.join(file.name for file in files)}")
