"""The last words of a training: what it reached, where it lies, and the commands that come next.

Read before: train.py.
"""

from __future__ import annotations

import datetime
import shlex
import shutil
from pathlib import Path

from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.engine.callbacks import FitResult
from ppcls_lite.recipe.start import BEST

SHOWN = ("report.html", "curves.png", "confusion_matrix.png", "per_class.txt")


def closing_words(result: FitResult, settings: RecipeSettings, seconds: float) -> str:
    """Best epoch and scores, time, folder, next commands: a few lines.

    seconds: how long the run has trained, before resumes included.
    """
    run_dir = result.run_dir
    lines = [f"{_reached(result)}, {datetime.timedelta(seconds=round(seconds))} of training"]
    wanted = (
        "first_batch.png",
        "curves.png",
        "confusion_matrix.png",
        "per_class.txt",
        "report.html",
    )
    there = [name for name in wanted if (run_dir / name).exists()]
    lines.append(f"In {run_dir}: {', '.join([*_weights(result), *there, 'train.log'])}")
    lines += ["Next:", *(f"  {command}" for command in next_commands(result, settings))]
    return "\n".join(lines)


def _reached(result: FitResult) -> str:
    scores = {name: value for name, value in result.best.items() if name != "epoch"}
    if not scores:
        return "Trained without an evaluation" if result.complete else "Not trained to the end"
    shown = ", ".join(f"{name} {value:.5g}" for name, value in [*scores.items()][:3])
    so_far = "" if result.complete else " so far"
    return f"Best epoch{so_far} {result.best['epoch']}: {shown}"


def _weights(result: FitResult) -> list[str]:
    names = (BEST, "latest")
    return [name for name in names if (result.run_dir / f"{name}.pdparams").exists()]


def next_commands(result: FitResult, settings: RecipeSettings) -> list[str]:
    """What to type next, complete: to resume, or to evaluate, export and predict."""
    recipe = result.run_dir / "config.yaml"
    if not result.complete:
        latest = f"Global.checkpoints={result.run_dir / 'latest'}"
        return [_command("train", "-c", recipe, "-o", latest)]
    weights = next(iter(_weights(result)), None)
    if weights is None:
        return [_command("runs", result.run_dir.parent)]
    run: list[str | Path] = ["-c", result.run_dir]  # stands for its recipe and its best weights
    if weights != BEST or settings.Global.pretrained_model:
        run += ["-o", f"Global.pretrained_model={result.run_dir / weights}"]
    found = []
    if settings.DataLoader.Eval is not None:
        found.append(_command("eval", *run))
    if settings.Infer is not None:
        found.append(_command("export", *run))
        folder = Path(settings.Global.save_inference_dir)
        found.append(_command("predict", "--model", folder, "--input", "IMAGE"))
    return found or [_command("runs", result.run_dir.parent)]


def _command(*words: str | Path) -> str:
    start = ["ppcls-lite"] if shutil.which("ppcls-lite") else ["python", "-m", "ppcls_lite"]
    return shlex.join([*start, *map(str, words)])
