"""The training loop: `fit` is the run, `step` is one update. Both fit on a screen.

The trainer is handed everything it works with: a task (network and loss), an optimizer, a schedule
(the learning rate as a function of the update's number), loaders and metrics. The whole training
state is one dict (`state`), written to the run folder after every epoch and when the run is
interrupted; `resume` continues at the exact step. On a CPU a run that was stopped and resumed
ends with the same weights, bit by bit, and the same records as an uninterrupted one.
Read next: evaluate.py, checkpoint.py, record.py.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import paddle

from ppcls_lite.engine import checkpoint, diverged, log, memory, plots, rng, run_folder
from ppcls_lite.engine.evaluate import Evaluator, Loader, Metric, results
from ppcls_lite.engine.meters import Meters, NotFiniteError, Origin
from ppcls_lite.engine.record import Recorder
from ppcls_lite.engine.signals import StopSignals
from ppcls_lite.errors import UserError
from ppcls_lite.tasks import Batch, Supervised

logger = logging.getLogger("ppcls_lite")


class Schedule(Protocol):
    """The learning rate of update `step` (from 0).

    A schedule that follows the score has `observe(value)`, `state()` and `load_state(state)` too.
    """

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class FitResult:
    """How a run ended: its folder, best and last evaluation, and the signal that stopped it."""

    run_dir: Path
    best: dict[str, float]
    last: dict[str, float]
    stopped_by: int | None = None

    @property
    def exit_code(self) -> int:
        """0, or as shells report a signal: 130 after Ctrl-C, 143 after SIGTERM."""
        return 0 if self.stopped_by is None else 128 + self.stopped_by


def steps_per_epoch(batches: int, update_freq: int = 1) -> int:
    """Updates per epoch; the last one takes the batches that are left."""
    return math.ceil(batches / update_freq)


class Trainer:
    """Trains `task` for `epochs` epochs over `loader` and writes everything to `run_dir`.

    `metrics` are computed on the training batches; `evaluator` scores the network every
    `eval_interval` epochs after `start_eval_epoch`, and after the last one. `update_freq` batches
    make one update, whose gradient is that of one large batch. A line is printed every
    `print_batch_step` updates; `save_interval` epochs lie between two kept checkpoints.
    """

    def __init__(
        self,
        task: Supervised,
        optimizer: paddle.optimizer.Optimizer,
        schedule: Schedule,
        loader: Loader,
        run_dir: str | Path,
        *,
        epochs: int,
        metrics: Sequence[Metric] = (),
        evaluator: Evaluator | None = None,
        recorder: Recorder | None = None,
        labels: Sequence[str] | None = None,
        update_freq: int = 1,
        print_batch_step: int = 10,
        save_interval: int = 1,
        eval_interval: int = 1,
        start_eval_epoch: int = 0,
    ) -> None:
        if len(loader) == 0:
            raise UserError(
                "the training set yields no batch. With drop_last, it needs at least one whole "
                "batch: lower DataLoader.Train.sampler.batch_size"
            )
        if hasattr(schedule, "observe") and evaluator is None:
            raise UserError(
                f"the schedule {type(schedule).__name__} follows the evaluation's score, but this "
                "run has no evaluation: set Global.eval_during_train and DataLoader.Eval"
            )
        self.task, self.optimizer, self.schedule, self.loader = task, optimizer, schedule, loader
        self.run_dir = run_folder.prepare(run_dir)
        self.epochs = epochs
        self.metrics, self.evaluator = list(metrics), evaluator
        self.recorder = recorder or Recorder(run_dir)
        self.labels = labels
        self.update_freq = update_freq
        self.print_batch_step = print_batch_step
        self.save_interval = save_interval
        self.eval_interval, self.start_eval_epoch = eval_interval, start_eval_epoch
        self.steps = steps_per_epoch(len(loader), update_freq)

        self.epoch, self.step_in_epoch = 1, 0  # the running epoch (from 1), updates done in it
        self.meters, self.watch, self.stop = Meters(), log.Stopwatch(), StopSignals()
        self.best: dict[str, Any] = {}  # epoch, scores, confusion
        self.history: list[dict[str, Any]] = []
        self._kept_lines = 0

    @property
    def updates(self) -> int:
        """Updates since the run began; the schedule's step."""
        return (self.epoch - 1) * self.steps + self.step_in_epoch

    def fit(self) -> FitResult:
        """Train to the end, or to the first Ctrl-C or SIGTERM, which loses nothing.

        Raises `NotFiniteError` for a loss that is NaN or infinite, with advice.
        """
        self.recorder.open(self._kept_lines)
        self.task.train()
        with self.stop, contextlib.closing(self.recorder):
            while self.epoch <= self.epochs:
                with log.bar(self._place, self.steps, self.step_in_epoch) as bar:
                    self.watch.restart()
                    for batches in self._updates():
                        self.step(batches)
                        bar.update()
                        if self.step_in_epoch % self.print_batch_step == 0 or self.updates == 1:
                            bar.set_postfix_str(self._report_step())
                        if self.stop:
                            return self._end()
                if not self._finish_epoch():
                    return self._end()
        return self._end()

    def step(self, batches: Sequence[Batch]) -> None:
        """One update: forward and backward over `batches`, then the optimizer."""
        lr = self.schedule(self.updates)
        self.optimizer.set_lr(lr)
        sizes = [batch["image"].shape[0] for batch in batches]
        for batch, size in zip(batches, sizes):
            losses, outputs = self.task.losses(batch)
            loss = losses["loss"]
            (loss if len(batches) == 1 else loss * (size / sum(sizes))).backward()
            origin = Origin(self.epoch, self.step_in_epoch + 1, lr, batch.get("index"))
            self.meters.add(losses, size, origin)
            for metric in self.metrics:
                metric.update(outputs, batch)
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.step_in_epoch += 1
        self.watch.step(sum(sizes))

    def state(self) -> dict[str, Any]:
        """The whole training state between two updates, as plain data and arrays."""
        observed = getattr(self.schedule, "state", None)
        return {
            "model": checkpoint.arrays(self.task.model),
            "optimizer": checkpoint.optimizer_arrays(self.optimizer, self.task.model),
            "schedule": observed() if observed else None,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "steps_per_epoch": self.steps,
            "meters": self.meters.state(),
            "metrics": [metric.state() for metric in self.metrics],
            "best": self.best,
            "history": self.history,
            "lines": self.recorder.lines,
            "rng": rng.state(),
        }

    def resume(self, prefix: str | Path) -> None:
        """Continue exactly where the checkpoint `prefix` was written.

        Raises `UserError` if it is damaged or of another network, optimizer or epoch length.
        """
        saved = checkpoint.load(prefix)
        if saved["steps_per_epoch"] != self.steps:
            raise UserError(
                f"{prefix} was written with {saved['steps_per_epoch']} updates per epoch, this run "
                f"has {self.steps}: the training list, the batch size or Global.update_freq "
                "differ. Restore them, or start a new run from the weights with "
                f"-o Global.pretrained_model={prefix}"
            )
        checkpoint.load_arrays(self.task.model, saved["model"], str(prefix))
        checkpoint.load_optimizer_arrays(
            self.optimizer, self.task.model, saved["optimizer"], str(prefix)
        )
        if saved["schedule"] is not None and hasattr(self.schedule, "load_state"):
            self.schedule.load_state(saved["schedule"])
        self.epoch, self.step_in_epoch = saved["epoch"], saved["step_in_epoch"]
        self.meters.load_state(saved["meters"])
        for metric, counts in zip(self.metrics, saved["metrics"]):
            metric.load_state(counts)
        self.best, self.history = saved["best"], saved["history"]
        self._kept_lines = saved["lines"]
        rng.restore(saved["rng"])
        logger.info(f"Resumed {prefix}: {self._done()}")

    def _updates(self) -> Iterator[list[Batch]]:
        """The rest of the epoch's batches, `update_freq` at a time."""
        group: list[Batch] = []
        start = self.step_in_epoch * self.update_freq
        if start >= len(self.loader):  # stopped between the last step and the evaluation
            return
        for batch in self.watch.waits(self.loader.epoch(self.epoch, start)):
            if self.updates == 0 and not group:
                self.recorder.first_batch(batch["image"][: plots.GRID_IMAGES].numpy())
            group.append(batch)
            if len(group) == self.update_freq:
                yield group
                group = []
        if group:
            yield group

    def _report_step(self) -> str:
        """Log and record the running averages; returns a short form for the progress bar."""
        values, costs = results(self.metrics) | self._means(), self.watch.costs()
        lr, left = self.schedule(self.updates - 1), self.epochs * self.steps - self.updates
        name, step = type(self.schedule).__name__, f"{self.step_in_epoch}/{self.steps}"
        logger.info(log.step_line(self._place, step, name, lr, values, costs, left), extra=log.STEP)
        self.recorder.write("step", self.epoch, self.updates, {"lr": lr} | values | costs)
        self.watch.restart()
        return f"{log.numbers(values)}, lr: {lr:.6f}, {costs['ips']:.1f} images/s"

    def _finish_epoch(self) -> bool:
        """Averages, evaluation and checkpoints of the finished epoch; False if interrupted."""
        epoch, lines = self.epoch, self.recorder.lines
        lr = self.schedule(self.updates - 1)
        train = results(self.metrics) | self._means()
        logger.info(f"[Train]{self._place}[Avg]{log.numbers(train | memory.peak())}")
        self.recorder.write("train", epoch, self.updates, {"lr": lr} | train | memory.peak())
        scores = None
        if self._is_evaluated(epoch):
            scores = self._evaluate()
            if scores is None:  # the resumed run evaluates again, from here
                self.recorder.rewind(lines)
                return False
        self.history.append({"epoch": epoch, "lr": lr, "train": train, "eval": scores})
        self.epoch, self.step_in_epoch = epoch + 1, 0
        self.meters.reset()
        for metric in self.metrics:
            metric.reset()
        prefixes = ["latest"] + ["best_model"] * (self.best.get("epoch") == epoch)
        self._save(*prefixes, *[f"epoch_{epoch}"] * (epoch % self.save_interval == 0))
        return True

    def _is_evaluated(self, epoch: int) -> bool:
        due = epoch > self.start_eval_epoch and epoch % self.eval_interval == 0
        return self.evaluator is not None and (due or epoch == self.epochs)

    def _evaluate(self) -> dict[str, float] | None:
        """Score the network, log, record and compare with the best; None if interrupted."""
        evaluator = self.evaluator
        with log.bar(f"[Eval][Epoch {self.epoch}]", len(evaluator.loader)) as bar:
            scores = evaluator.run(stop=lambda: bool(self.stop), on_batch=bar.update)
        if scores is None:
            return None
        main = next(iter(scores))
        if evaluator.improves(scores[main], self.best.get("scores", {}).get(main)):
            confusion = evaluator.confusion()
            self.best = {"epoch": self.epoch, "scores": scores, "confusion": confusion}
        best = self.best.get("scores", scores)[main]
        logger.info(f"[Eval][Epoch {self.epoch}][Avg]{log.numbers(scores)}")
        logger.info(f"[Eval][Epoch {self.epoch}][best metric: {best:.5f}]")
        self.recorder.write("eval", self.epoch, self.updates, scores)
        if hasattr(self.schedule, "observe"):
            self.schedule.observe(scores[main])
        return scores

    def _means(self) -> dict[str, float]:
        try:
            return self.meters.means()
        except NotFiniteError as error:
            raise diverged.explained(error, self.loader, self.run_dir) from None

    def _save(self, *prefixes: str) -> None:
        self._means()  # a network whose loss is not finite must not replace a good checkpoint
        state = self.state()
        diverged.require_finite(state["model"], self._done(), self.run_dir)
        for prefix in prefixes:
            checkpoint.save(self.run_dir / prefix, state)
        logger.info(f"Saved {', '.join(prefixes)} in {self.run_dir}")

    def _end(self) -> FitResult:
        """Draw the run, say how it ended, and how to go on if it was stopped."""
        stopped = self.stop.received if self.epoch <= self.epochs else None
        if stopped:
            self._save("latest")
            logger.warning(
                f"Stopped by {stopped.name} {self._done()}. Nothing is lost: continue "
                f"with the same command and -o Global.checkpoints={self.run_dir / 'latest'}"
            )
        self._draw()
        last = self.history[-1]["eval"] if self.history else None
        best = self.best.get("scores", {}) | {"epoch": self.best["epoch"]} if self.best else {}
        return FitResult(self.run_dir, best, last or {}, stopped)

    def _draw(self) -> None:
        if self.history:
            plots.curves(self.history, self.run_dir / "curves.png")
        if self.best.get("confusion") is not None:
            path = self.run_dir / "confusion_matrix.png"
            plots.confusion_matrix(self.best["confusion"], path, self.labels)

    @property
    def _place(self) -> str:
        return f"[Epoch {self.epoch}/{self.epochs}]"

    def _done(self) -> str:
        if self.step_in_epoch:
            return f"in epoch {self.epoch}, after step {self.step_in_epoch} of {self.steps}"
        return f"after epoch {self.epoch - 1} of {self.epochs}"
