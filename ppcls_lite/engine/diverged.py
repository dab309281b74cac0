"""What to tell a person whose training became NaN or infinite. Read next: meters.py, trainer.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ppcls_lite.engine.evaluate import Loader
from ppcls_lite.engine.meters import NotFiniteError
from ppcls_lite.errors import UserError

SHOWN_FILES = 8


def explained(error: NotFiniteError, loader: Loader, run_dir: Path) -> NotFiniteError:
    """The same error with where to look: the term, the rate, the images, the last checkpoint."""
    origin = error.origin
    names = [name for name, value in error.terms.items() if not math.isfinite(value)]
    terms = ", ".join(f"{name} is {error.terms[name]}" for name in names)
    lines = [
        f"Training stopped in epoch {origin.epoch}, step {origin.step}: {terms}. Where to look:",
        f"- the learning rate, {origin.lr:g} in that step: try a tenth of it, a longer warm-up "
        "(Optimizer.lr.warmup_epoch) or gradient clipping (Optimizer.clip_norm);",
        f"- the data of that batch{_files(error, loader)};",
    ]
    return NotFiniteError(origin, error.terms, "\n".join([*lines, _last_good(run_dir)]))


def require_finite(model: Mapping[str, np.ndarray], done: str, run_dir: Path) -> None:
    """Raise `UserError` for weights or statistics that are NaN or infinite.

    The loss may hide them: Paddle's ReLU turns NaN into 0, so that one NaN pixel can ruin the
    statistics of batch normalisation, with which the network is evaluated, but not the loss.
    """
    names = [
        name
        for name, array in model.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
            f"Training stopped {done}: {', '.join(names[:3])}{more} became NaN or infinite, while "
            "the loss did not show it, so this network was not saved. Where to look:\n"
            "- the data: an image or a transform that gives NaN or infinite values (a division by "
            "zero in the normalisation, for example);\n"
            "- the learning rate, if the loss had risen;\n" + _last_good(run_dir)
        )


def _last_good(run_dir: Path) -> str:
    if (run_dir / "latest.pdstate").exists():
        return (
            "- the last good checkpoint: continue from it with "
            f"-o Global.checkpoints={run_dir / 'latest'}"
        )
    return "- no checkpoint was written yet, so the run starts over."


def _files(error: NotFiniteError, loader: Loader) -> str:
    """`: a.jpg, b.jpg, ...` if the batch and the data set tell which images they were."""
    paths = loader.paths
    if error.origin.index is None or len(paths) == 0:
        return " (labels, corrupt or constant images, the normalisation)"
    index = [int(i) for i in error.origin.index.numpy().reshape(-1)]
    shown = ", ".join(str(paths[i]) for i in index[:SHOWN_FILES])
    more = f" and {len(index) - SHOWN_FILES} more" if len(index) > SHOWN_FILES else ""
    return f": {shown}{more}"
