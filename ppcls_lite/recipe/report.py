"""`report`: one page about a run, after its best weights have been evaluated.

Read before: evaluate.py, ../report/page.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine import log
from ppcls_lite.errors import UserError
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import FILE_NAME
from ppcls_lite.recipe.certainty import EVALUATIONS, SCORES, weights_checksum
from ppcls_lite.recipe.evaluate import evaluate
from ppcls_lite.recipe.explain import explain_mistakes
from ppcls_lite.recipe.parts import run_dir_of
from ppcls_lite.recipe.start import BEST, with_weights
from ppcls_lite.report.facts import read_facts
from ppcls_lite.report.page import write_page

logger = logging.getLogger("ppcls_lite")


def report(recipe: Recipe, model_dir: Path | None = None, plugins: Sequence[str] = ()) -> Path:
    """Write report.html into the run's folder; returns the file.

    The best weights are evaluated unless that has been done. model_dir: an exported folder whose
    size and speed on this machine go into the page; by default `Global.save_inference_dir`, where
    it holds a network of this recipe.
    Raises UserError where the run has no best weights.
    """
    log.setup()
    run_dir = run_dir_of(recipe.settings)
    if not (run_dir / f"{BEST}.pdparams").is_file():
        raise UserError(f"{run_dir}: holds no {BEST}; a report is of a run that was evaluated once")
    known = with_weights(recipe, "report")
    scores = read_facts(run_dir / EVALUATIONS / BEST / SCORES)
    if scores is None or scores["sha256"] != weights_checksum(known.settings):
        evaluate(known)
        explain_mistakes(known, run_dir / EVALUATIONS / BEST)
    if model_dir:
        with Predictor(model_dir, engine="auto", plugins=plugins) as predictor:
            path = with_export(run_dir, Path(model_dir), predictor.choice.milliseconds)
    else:
        path = write_page(run_dir)
    logger.info(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def with_export(run_dir: Path, folder: Path, latencies: Mapping[str, float]) -> Path:
    """Write the page of a run that was evaluated and exported to `folder`; returns the file.

    latencies: how long an image takes by engine: "openvino fp32" and so on -> milliseconds.
    """
    sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()}
    sizes.pop(FILE_NAME, None)
    return write_page(
        run_dir, {"folder": str(folder), "files": sizes, "latencies": dict(latencies)}
    )
