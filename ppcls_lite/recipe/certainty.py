"""How certain an exported network's answers are to be: thresholds fitted on `DataLoader.Eval`.

Read before: ../metrics/certainty.py. Read next: export.py, which asks.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.engine import log
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.spec import checksum
from ppcls_lite.metrics.certainty import Certainty, Wish
from ppcls_lite.models.weights.load import find_weights
from ppcls_lite.recipe.networks import given_weights, task_to_score
from ppcls_lite.recipe.parts import build_datasets, build_evaluator, run_dir_of
from ppcls_lite.recipe.start import scan_data

logger = logging.getLogger("ppcls_lite")
EVALUATIONS, SCORES = "eval", "scores.json"  # in a run's folder, and in each folder there


def certainty(settings: RecipeSettings, wish: Wish) -> Certainty:
    """Evaluate the network; returns what fulfils the wish, for `Infer.PostProcess`.

    Raises UserError where the metrics, the images or the post-processing cannot.
    """
    if settings.DataLoader is None or settings.DataLoader.Eval is None:
        raise ConfigError("DataLoader.Eval: is missing; thresholds are fitted on its images")
    datasets = build_datasets(settings, ("Eval",))
    scan_data(datasets, World())
    task = task_to_score(settings)
    evaluator = build_evaluator(settings, task, datasets["Eval"], World(), closer=True)
    with log.bar("[Eval]", len(evaluator.loader)) as bar:
        evaluator.run(on_batch=bar.update)
    evaluator.loader.close()
    found = next(filter(None, (metric.certainty(wish) for metric in evaluator.metrics)), None)
    node = settings.Infer.PostProcess
    known = {argument.name for argument in node.entry.arguments}
    if found is None or not known >= found.arguments.keys():
        raise UserError(
            f"{node.path}: {node.entry.name} has nothing that this recipe's metrics can fit. "
            "Topk has a temperature and a threshold, MultiLabelThreshOutput a threshold for each "
            "class, DetectionNMS one with the metric CocoAP; masks are exported as classes, "
            "without scores, and other attributes have thresholds to set by hand"
        )
    shown = {k: f"{v:.4g}" for k, v in found.facts.items() if isinstance(v, (int, float))}
    logger.info(
        f"fitted on DataLoader.Eval: {_listed(found.arguments)} "
        f"({', '.join(f'{name} {value}' for name, value in shown.items())})"
    )
    return found


def known_calibration(settings: RecipeSettings, name: str) -> dict[str, Any]:
    """What an `eval` of the same weights, called `name`, has told; empty where there was none."""
    folder = run_dir_of(settings) / EVALUATIONS / name
    try:
        scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        facts = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        if scores["sha256"] is None or scores["sha256"] != weights_checksum(settings):
            return {}
        return {"images": facts["images"], "temperature": facts["temperature"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def weights_checksum(settings: RecipeSettings) -> str | None:
    """The SHA-256 of the file that `Global.pretrained_model` names; None where it names none."""
    given = given_weights(settings)
    return checksum(find_weights(given)) if given else None


def _listed(arguments: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return ", ".join(map(shown, value)) if isinstance(value, list) else f"{value:g}"

    return ", ".join(f"{name} {shown(value)}" for name, value in arguments.items()) or "nothing"
