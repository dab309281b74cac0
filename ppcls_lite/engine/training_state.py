"""Everything that a run is made of between two updates, and as plain data for a resume.

Weights, averaged weights, optimizer, loss scale, schedule, the place in the run, scores so far
and, for each rank, the running means and the random generators. The order of the images and their
augmentation need no state: they follow from seed, epoch and step.
Read next: trainer.py, which moves it on; checkpoint.py, which writes it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import paddle

from ppcls_lite.engine import checkpoint, rng
from ppcls_lite.engine.amp import Precision
from ppcls_lite.engine.distributed import STATISTICS, World
from ppcls_lite.engine.ema import ExponentialAverage
from ppcls_lite.engine.evaluate import Metric
from ppcls_lite.engine.main_score import main_score
from ppcls_lite.engine.meters import Meters
from ppcls_lite.engine.origin import Origin
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.errors import UserError

# What reading a state of odd content raises, in Python, numpy and Paddle.
DAMAGE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError)
logger = logging.getLogger("ppcls_lite")


class Schedule(Protocol):
    """The learning rate of update `step` (from 0), a pure function.

    If it `follows_score`, its rate depends on the scores that it has observed as well; only then
    are `observe`, `state` and `load_state` called.
    """

    follows_score: bool

    def __call__(self, step: int) -> float: ...
    def observe(self, score: float) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Before:
    """What an update changes before it touches a weight; see `TrainingState.remember`."""

    statistics: paddle.Tensor | None
    buffers: Sequence[paddle.Tensor]
    rng: dict[str, Any]


class TrainingState:
    """What learns, what makes it learn, and how far it has come.

    `metrics` are computed on the training batches, `steps` updates make an epoch. With an `ema`
    the weights are averaged as well. In a `world` of several ranks each trains on its part of every
    batch. `origin` says what all of it is made of.

    epoch, step_in_epoch: the running epoch (from 1) and the updates done in it.
    meters: means of the losses over the running epoch.
    best: epoch, scores and what the metrics report of the best evaluation; empty before the first.
    history: one entry for each finished epoch: epoch, lr, train and eval (None: not evaluated).
    lines: of metrics.jsonl, which belong to this state.
    """

    def __init__(
        self,
        task: Supervised,
        optimizer: paddle.optimizer.Optimizer,
        schedule: Schedule,
        *,
        steps: int,
        metrics: Sequence[Metric] = (),
        precision: Precision | None = None,
        ema: ExponentialAverage | None = None,
        world: World | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.steps, self.metrics = steps, list(metrics)
        self.precision, self.ema = precision or Precision(), ema
        self.world, self.origin = world or World(), origin or Origin()
        self.epoch, self.step_in_epoch = 1, 0
        self.meters = Meters(pass_over=self.precision.scaler is not None)
        self.best: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.lines = 0

    @property
    def updates(self) -> int:
        """Updates since the run began; the schedule's step."""
        return (self.epoch - 1) * self.steps + self.step_in_epoch

    @property
    def lr(self) -> float:
        """The learning rate of the last update, until a score is observed."""
        return self.schedule(self.updates - 1)

    @property
    def evaluations_since_best(self) -> int:
        """How many evaluations there were after the first with the best score."""
        scored = [entry for entry in self.history if entry["eval"]]
        first = self.best.get("epoch", 0)
        if self.best:
            main, value = next(iter(self.best["scores"].items()))
            equal = [e["epoch"] for e in scored if main_score(e["eval"], main) == value]
            first = min([first, *equal])
        return sum(entry["epoch"] > first for entry in scored)

    @paddle.no_grad()
    def remember(self) -> Before:
        """The way back from the forward and backward passes of an update; a tenth of a ms."""
        statistics, buffers = self._moving
        joined = paddle.concat(statistics) if statistics else None  # one operator, not fifty
        return Before(joined, [buffer.clone() for buffer in buffers], rng.state())

    @paddle.no_grad()
    def go_back(self, before: Before) -> None:
        """Undo the passes since `before` was remembered."""
        statistics, buffers = self._moving
        if statistics:
            parts = paddle.split(before.statistics, [tensor.size for tensor in statistics])
            for tensor, part in zip(statistics, parts):
                tensor.set_value(part)
        for buffer, kept in zip(buffers, before.buffers):
            buffer.set_value(kept)
        rng.restore(before.rng)
        self.optimizer.clear_grad()

    @functools.cached_property
    def _moving(self) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """What a forward pass changes: running statistics (vectors of float32), and the rest."""
        trained = self.task.trained
        named = trained.state_dict().items()
        found = {id(t): t for name, t in named if name.endswith(STATISTICS)}
        found |= {id(t): t for t in trained.buffers()}
        plain = [t for t in found.values() if t.ndim == 1 and t.dtype == paddle.float32]
        return plain, [t for t in found.values() if not any(t is p for p in plain)]

    def finish_epoch(
        self, lr: float, train: Mapping[str, float], scores: Mapping[str, float] | None
    ) -> None:
        """Keep the epoch's last rate, its means and, if any, its scores; the next one begins."""
        self.history.append({"epoch": self.epoch, "lr": lr, "train": train, "eval": scores})
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.meters.reset()
        for metric in self.metrics:
            metric.reset()

    def collect(self) -> dict[str, Any]:
        """The state as plain data and arrays; all ranks call it together."""
        return {
            "model": checkpoint.arrays(self.task.model),
            "ema": self.ema.state() if self.ema else None,
            "companions": {n: checkpoint.arrays(c) for n, c in self.task.companions.items()},
            "optimizer": checkpoint.optimizer_arrays(self.optimizer, self.task.trained),
            "precision": self.precision.state(),
            "schedule": self.schedule.state() if self.schedule.follows_score else None,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "steps_per_epoch": self.steps,
            "best": self.best,
            "history": self.history,
            "lines": self.lines,
            "origin": self.origin.state(),
            "ranks": self.world.gather(self._own()),
        }

    def restore(self, saved: Mapping[str, Any], source: str) -> None:
        """Become `saved`, a value of `collect` from the checkpoint `source`.

        Says what differs in recipe and data. Raises `UserError` if it is of another network,
        optimizer or epoch length, of other data (see `Origin`), or no whole state.
        """
        try:
            _require_form(saved)
            self._restore(saved, source)
        except UserError:
            raise
        except DAMAGE as error:  # whatever odd content leads to, here and in what it is handed to
            raise UserError(
                f"{source} is no whole training state ({type(error).__name__}: {error}). Resume "
                "from another checkpoint, or start a new run from the weights with "
                f"-o Global.pretrained_model={source}"
            ) from None

    def _restore(self, saved: Mapping[str, Any], source: str) -> None:
        self._compare_origin(saved, source)
        if saved["steps_per_epoch"] != self.steps:
            raise UserError(
                f"{source} was written with {saved['steps_per_epoch']} updates per epoch, this run "
                f"has {self.steps}: the training list, the batch size, Global.update_freq or "
                "Global.eval_steps differ. Restore them, or start a new run from the weights with "
                f"-o Global.pretrained_model={source}"
            )
        checkpoint.load_arrays(self.task.model, saved["model"], source)
        self._restore_companions(saved.get("companions", {}), source)
        trained = self.task.trained
        checkpoint.load_optimizer_arrays(self.optimizer, trained, saved["optimizer"], source)
        self.precision.load_state(saved.get("precision"))
        if self.ema and saved.get("ema"):
            self.ema.load_state(saved["ema"], source)
        elif self.ema:
            self.ema.restart()
            logger.info(f"{source} has no averaged weights: the average starts from its weights")
        if saved["schedule"] is not None and self.schedule.follows_score:
            self.schedule.load_state(saved["schedule"])
        self._restore_own(saved["ranks"])
        self.epoch, self.step_in_epoch = saved["epoch"], saved["step_in_epoch"]
        self.best, self.history, self.lines = saved["best"], saved["history"], saved["lines"]

    def _own(self) -> dict[str, Any]:
        """What differs between the ranks: sums over the epoch so far, and generators."""
        return {
            "meters": self.meters.state(),
            "metrics": [metric.state() for metric in self.metrics],
            "rng": rng.state(),
        }

    def _compare_origin(self, saved: Mapping[str, Any], source: str) -> None:
        origin = saved.get("origin")  # versions before it wrote none
        if origin is None:
            logger.info(f"{source} does not say of what recipe and data it is: not compared")
            return
        within_epoch = 0 < saved["step_in_epoch"] < saved["steps_per_epoch"]
        found = self.origin.differences(origin, source, within_epoch)
        if found and self.world.is_main:
            lines = "\n".join(f"- {line}" for line in found)
            logger.warning(f"{source} was written with another recipe; what differs:\n{lines}")

    def _restore_companions(self, saved: Mapping[str, checkpoint.Arrays], source: str) -> None:
        companions = self.task.companions
        if set(saved) != set(companions):
            raise UserError(
                f"{source} was written with {_words(saved)} learning beside the network, this run "
                f"has {_words(companions)}. Resume with the same Arch and Loss sections."
            )
        for name, layer in companions.items():
            checkpoint.load_arrays(layer, saved[name], f"{source} ({name})")

    def _restore_own(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        if len(ranks) != self.world.size:
            logger.info(
                f"written by {len(ranks)} processes, continued by {self.world.size}: the images "
                "and their order are the same; dropout and the like draw other numbers, and the "
                "training averages of the running epoch start anew"
            )
            return
        own = ranks[self.world.rank]
        self.meters.load_state(own["meters"])
        for metric, counts in zip(self.metrics, own["metrics"]):
            metric.load_state(counts)
        rng.restore(own["rng"])


def _require_form(saved: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless what is only used later is what `collect` makes."""
    for name, least in (("epoch", 1), ("step_in_epoch", 0), ("steps_per_epoch", 1), ("lines", 0)):
        if type(saved[name]) is not int or saved[name] < least:
            raise ValueError(f"{name} is {saved[name]!r:.60}")
    best, history = saved["best"], saved["history"]
    wrong = saved["step_in_epoch"] > saved["steps_per_epoch"] or not isinstance(history, list)
    for entry in () if wrong else history:
        scored = entry["eval"] is None or _is_scores(entry["eval"])
        wrong |= type(entry["epoch"]) is not int or not isinstance(entry["lr"], float | int)
        wrong |= not scored or not isinstance(entry["train"], dict)
    if best:
        kept = best.get("metrics", {}).values()
        wrong |= type(best["epoch"]) is not int or not _is_scores(best["scores"])
        wrong |= not all(isinstance(array, np.ndarray) for m in kept for array in m.values())
    if wrong or not isinstance(best, dict):
        raise ValueError("epochs, scores or place in the run are malformed")


def _is_scores(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(type(v) in (int, float) for v in value.values())
    )


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
