"""Everything that a run is made of between two updates, as plain data: what a resume brings back.

Weights, averaged weights, optimizer, loss scale, schedule, the place in the epoch, scores so far
and, for each rank, the running means and the random generators. The order of the images and their
augmentation need no state: they follow from seed, epoch and step. Read before: trainer.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppcls_lite.engine import checkpoint, rng
from ppcls_lite.errors import UserError

if TYPE_CHECKING:
    from ppcls_lite.engine.trainer import Trainer

logger = logging.getLogger("ppcls_lite")


def collect(trainer: Trainer) -> dict[str, Any]:
    """The state of `trainer`; all ranks call it together."""
    observed = getattr(trainer.schedule, "state", None)
    model = trainer.task.model
    return {
        "model": checkpoint.arrays(model),
        "ema": trainer.ema.state() if trainer.ema else None,
        "companions": {n: checkpoint.arrays(c) for n, c in trainer.task.companions.items()},
        "optimizer": checkpoint.optimizer_arrays(trainer.optimizer, trainer.task.trained),
        "precision": trainer.precision.state(),
        "schedule": observed() if observed else None,
        "epoch": trainer.epoch,
        "step_in_epoch": trainer.step_in_epoch,
        "steps_per_epoch": trainer.steps,
        "best": trainer.best,
        "history": trainer.history,
        "lines": trainer.recorder.lines,
        "ranks": trainer.world.gather(_own(trainer)),
    }


def _own(trainer: Trainer) -> dict[str, Any]:
    """What differs between the ranks: sums over the epoch so far, and generators."""
    return {
        "meters": trainer.meters.state(),
        "metrics": [metric.state() for metric in trainer.metrics],
        "rng": rng.state(),
    }


def restore(trainer: Trainer, saved: Mapping[str, Any], source: str) -> None:
    """Put `saved`, a value of `collect` from the checkpoint `source`, into `trainer`.

    Raises `UserError` if it is of another network, optimizer or epoch length.
    """
    if saved["steps_per_epoch"] != trainer.steps:
        raise UserError(
            f"{source} was written with {saved['steps_per_epoch']} updates per epoch, this run "
            f"has {trainer.steps}: the training list, the batch size or Global.update_freq "
            "differ. Restore them, or start a new run from the weights with "
            f"-o Global.pretrained_model={source}"
        )
    model = trainer.task.model
    checkpoint.load_arrays(model, saved["model"], source)
    _restore_companions(trainer, saved.get("companions", {}), source)
    trained = trainer.task.trained
    checkpoint.load_optimizer_arrays(trainer.optimizer, trained, saved["optimizer"], source)
    trainer.precision.load_state(saved.get("precision"))
    if trainer.ema and saved.get("ema"):
        trainer.ema.load_state(saved["ema"], source)
    elif trainer.ema:
        trainer.ema.restart()
        logger.info(f"{source} has no averaged weights: the average starts from its weights")
    if saved["schedule"] is not None and hasattr(trainer.schedule, "load_state"):
        trainer.schedule.load_state(saved["schedule"])
    trainer.epoch, trainer.step_in_epoch = saved["epoch"], saved["step_in_epoch"]
    trainer.best, trainer.history = saved["best"], saved["history"]
    trainer.kept_lines = saved["lines"]
    _restore_own(trainer, saved["ranks"])


def _restore_companions(
    trainer: Trainer, saved: Mapping[str, checkpoint.Arrays], source: str
) -> None:
    companions = trainer.task.companions
    if set(saved) != set(companions):
        raise UserError(
            f"{source} was written with {_words(saved)} learning beside the network, this run has "
            f"{_words(companions)}. Resume with the same Arch and Loss sections."
        )
    for name, layer in companions.items():
        checkpoint.load_arrays(layer, saved[name], f"{source} ({name})")


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _restore_own(trainer: Trainer, ranks: Sequence[Mapping[str, Any]]) -> None:
    world = trainer.world
    if len(ranks) != world.size:
        logger.info(
            f"written by {len(ranks)} processes, continued by {world.size}: the images and their "
            "order are the same; dropout and the like draw other numbers, and the training "
            "averages of the running epoch start anew"
        )
        return
    own = ranks[world.rank]
    trainer.meters.load_state(own["meters"])
    for metric, counts in zip(trainer.metrics, own["metrics"]):
        metric.load_state(counts)
    rng.restore(own["rng"])
