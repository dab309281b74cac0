"""`evaluate`: weights are scored on `DataLoader.Eval`. Read before: start.py."""

from __future__ import annotations

import json
import logging

from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine import log, run_folder
from ppcls_lite.engine.main_score import NOT_FINITE
from ppcls_lite.errors import UserError
from ppcls_lite.recipe.classes import count_classes_in_weights
from ppcls_lite.recipe.networks import task_to_score
from ppcls_lite.recipe.parts import build_datasets, build_evaluator, class_names, run_dir_of
from ppcls_lite.recipe.start import (
    Tree,
    finish_loaders,
    logged,
    require_weights,
    scan_data,
    start,
    warn,
)

logger = logging.getLogger("ppcls_lite")


def evaluate(tree: Tree | Recipe) -> dict[str, float]:
    """Score the recipe's weights on `DataLoader.Eval`; the first value is the main one.

    Also writes eval.json and the reports of the metrics into the run folder.
    """
    recipe, world = start(tree, ("DataLoader",))
    require_weights(recipe.settings, "evaluate")
    settings = count_classes_in_weights(recipe.settings)
    datasets = build_datasets(settings, ("Eval",))
    run_dir = run_folder.prepare(run_dir_of(settings))
    with logged(run_dir, settings, world):
        warn(recipe)
        scan_data(datasets, world)
        evaluator = build_evaluator(settings, task_to_score(settings), datasets["Eval"], world)
        with log.bar("[Eval]", len(evaluator.loader)) as bar:
            scores = evaluator.run(on_batch=bar.update)
        logger.info(f"[Eval][Avg]{log.numbers(scores)}")
        if world.is_main:
            names = class_names(settings, datasets["Eval"])
            files = evaluator.report(run_dir, names, evaluator.kept())
            if files:
                logger.info(f"written: {', '.join(map(str, files))}")
        finish_loaders({"Eval": evaluator.loader}, run_dir / "eval_bad_files", world)
        if world.is_main:
            text = json.dumps({"weights": settings.Global.pretrained_model, **scores}, indent=2)
            (run_dir / "eval.json").write_text(text + "\n", encoding="utf-8")
        if NOT_FINITE in scores:
            raise UserError(
                f"{scores[NOT_FINITE]:,.0f} images of DataLoader.Eval have NaN or infinite "
                "outputs, which count as wrong: look at the weights (did they diverge?) and at the "
                f"transforms; the scores are in {run_dir / 'eval.json'}"
            )
    return scores
