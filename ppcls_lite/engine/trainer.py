"""The training loop: `fit` is the run, `step` is one update. Both fit on a screen.

The trainer is handed everything it works with: a task (network and loss), an optimizer, a schedule
(the learning rate as a function of the update's number), loaders and metrics. The whole training
state is one dict (`state`), written to the run folder after every epoch, in between as the keeper
says, and when the run is interrupted; `resume` continues at the exact step. On a CPU a run that was
stopped and resumed ends with the same weights, bit by bit, and the same records as any other.
Read next: training_state.py, evaluate.py, keeper.py, amp.py, ema.py, record.py.
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

from ppcls_lite.engine import (
    checkpoint,
    diverged,
    log,
    memory,
    plots,
    run_folder,
    training_state,
)
from ppcls_lite.engine.accumulate import shares
from ppcls_lite.engine.amp import Precision
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.ema import ExponentialAverage
from ppcls_lite.engine.evaluate import Evaluator, Loader, Metric, totals
from ppcls_lite.engine.keeper import Keeper
from ppcls_lite.engine.meters import Meters, NotFiniteError, Origin
from ppcls_lite.engine.record import NoRecorder, Recorder
from ppcls_lite.engine.signals import Reason, StopSignals
from ppcls_lite.engine.tasks import Batch, Supervised
from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")


class Schedule(Protocol):
    """The learning rate of update `step` (from 0).

    A schedule that follows the score has `observe(value)`, `state()` and `load_state(state)` too.
    """

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class FitResult:
    """How a run ended: its folder, best and last evaluation, and the signal that stopped it.

    `exit_code` is 0 if the run is complete; 130 after Ctrl-C, 143 after SIGTERM, 75 after SIGUSR1
    or `max_minutes`: then everything is saved and it can be resumed.
    """

    run_dir: Path
    best: dict[str, float]
    last: dict[str, float]
    stopped_by: int | None = None
    exit_code: int = 0


def steps_per_epoch(batches: int, update_freq: int = 1) -> int:
    """Updates per epoch; the last one takes the batches that are left."""
    return math.ceil(batches / update_freq)


class Trainer:
    """Trains `task` for `epochs` epochs over `loader` and writes everything to `run_dir`.

    `metrics` are computed on the training batches; `evaluator` scores the network every
    `eval_interval` epochs after `start_eval_epoch`, and after the last one. `update_freq` batches
    make one update, whose gradient is that of one large batch. A line is printed every
    `print_batch_step` updates. The `keeper` writes checkpoints (by default after each epoch). With
    an `ema` both networks are evaluated, the averaged one decides. `early_stop` evaluations without
    a better score end the run, `max_minutes` interrupt it. In a `world` of several ranks each
    trains on its part of every batch, and rank 0 writes to `run_dir`.
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
        eval_interval: int = 1,
        start_eval_epoch: int = 0,
        keeper: Keeper | None = None,
        precision: Precision | None = None,
        ema: ExponentialAverage | None = None,
        early_stop: int | None = None,
        max_minutes: float | None = None,
        world: World | None = None,
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
        self.world = world or World()
        self.recorder = recorder or (Recorder(run_dir) if self.world.is_main else NoRecorder())
        self.labels = labels
        self.update_freq = update_freq
        self.print_batch_step = print_batch_step
        self.keeper = keeper or Keeper(run_dir)
        self.precision, self.ema = precision or Precision(), ema
        self.early_stop = early_stop
        self.eval_interval, self.start_eval_epoch = eval_interval, start_eval_epoch
        self.steps = steps_per_epoch(len(loader), update_freq)

        self.epoch, self.step_in_epoch = 1, 0  # the running epoch (from 1), updates done in it
        self.meters = Meters(pass_over=self.precision.scaler is not None)
        self.watch, self.stop = log.Stopwatch(), StopSignals(max_minutes)
        self.stopping = self.saving = False  # what some rank wants after this step: on all the same
        self.best: dict[str, Any] = {}  # epoch, scores, what the metrics keep for their reports
        self.history: list[dict[str, Any]] = []
        self.kept_lines = 0  # of metrics.jsonl, which are from before a resume

    @property
    def updates(self) -> int:
        """Updates since the run began; the schedule's step."""
        return (self.epoch - 1) * self.steps + self.step_in_epoch

    def fit(self) -> FitResult:
        """Train to the end, or to the first signal or time limit, which loses nothing.

        Raises `NotFiniteError` for a loss that is NaN or infinite, with advice.
        """
        if self.world.is_main:
            checkpoint.remove_leftovers(self.run_dir)
        self.recorder.open(self.kept_lines)
        self.task.train()
        with self.stop, contextlib.closing(self.recorder), contextlib.closing(self.keeper):
            while self._goes_on():
                with log.bar(self._place, self.steps, self.step_in_epoch) as bar:
                    self.watch.restart()
                    for batches in self._updates():
                        self.step(batches)
                        bar.update()
                        if self.step_in_epoch % self.print_batch_step == 0 or self.updates == 1:
                            bar.set_postfix_str(self._report_step())
                        if self.stopping or (self.world.size == 1 and self.stop):
                            return self._end()
                        if self.saving and self.step_in_epoch < self.steps:
                            self._save(["latest"])
                if not self._finish_epoch():
                    return self._end()
        return self._end()

    def step(self, batches: Sequence[Batch]) -> None:
        """One update: forward and backward over `batches`, then the optimizer."""
        lr = self.schedule(self.updates)
        self.optimizer.set_lr(lr)
        sizes = [batch["image"].shape[0] for batch in batches]
        parts = shares(self.task.loss, batches, self.world)
        for batch, size, share in zip(batches, sizes, parts):
            with self.precision.cast():
                losses, outputs = self.task.losses(batch)
            self.precision.backward(share.of(losses))
            origin = Origin(self.epoch, self.step_in_epoch + 1, lr, batch.get("index"))
            self.meters.add(losses, size, losses.denominators, origin)
            for metric in self.metrics:
                metric.update(outputs, batch)
        due = self.world.is_main and self.keeper.is_due(self.updates + 1)
        wishes = self.world.average(self.task.trained, bool(self.stop), due)
        self.stopping, self.saving = wishes
        if self.precision.step(self.optimizer) and self.ema:
            self.ema.update()
        self.optimizer.clear_grad()
        self.step_in_epoch += 1
        self.watch.step(sum(sizes) * self.world.size)

    def state(self) -> dict[str, Any]:
        """The whole training state between two updates, as plain data and arrays.

        It is gathered from all ranks, so all of them call it together.
        """
        return training_state.collect(self)

    def resume(self, prefix: str | Path) -> None:
        """Continue exactly where the checkpoint `prefix` was written.

        `auto` takes the newest whole one of the run folder, or starts a new run if there is none.
        Raises `UserError` if it is damaged or of another network, optimizer or epoch length.
        """
        if prefix == checkpoint.AUTO:
            found = self.world.from_main(lambda: checkpoint.load_newest(self.run_dir))
            if found is None:
                logger.info(f"No checkpoint in {self.run_dir}: this is a new run")
                return
            prefix, saved = found
        else:
            saved = self.world.from_main(lambda: checkpoint.load(prefix))
        training_state.restore(self, saved, str(prefix))
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
        values, costs = self._totals(), self.watch.costs()
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
        train = self._totals()
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
        up = self.evaluator is None or self.evaluator.higher_is_better
        names = self.keeper.names(self.history, self.best.get("epoch"), up)
        self._save(names, self.keeper.unwanted(self.history, up))
        return True

    def _goes_on(self) -> bool:
        """Whether epochs are left, and the score has improved lately."""
        best = self.best.get("epoch", 0)
        since = sum(entry["epoch"] > best for entry in self.history if entry["eval"])
        return self.epoch <= self.epochs and (self.early_stop is None or since < self.early_stop)

    def _is_evaluated(self, epoch: int) -> bool:
        due = epoch > self.start_eval_epoch and epoch % self.eval_interval == 0
        return self.evaluator is not None and (due or epoch == self.epochs)

    def _evaluate(self) -> dict[str, float] | None:
        """Score the network, log, record and compare with the best; None if interrupted."""
        if not any(entry["eval"] for entry in self.history) and not self._evaluate_references():
            return None
        evaluator, scores = self.evaluator, self._run_evaluator()
        if scores is not None and self.ema:
            with self.ema.applied():
                averaged = self._run_evaluator("[EMA]")
            # the averaged network is the one to use: its score is the main one
            scores = averaged and {f"{n}_ema": v for n, v in averaged.items()} | scores
        if scores is None:
            return None
        main = next(iter(scores))
        if evaluator.improves(scores[main], self.best.get("scores", {}).get(main)):
            self.best = {"epoch": self.epoch, "scores": scores, "metrics": evaluator.kept()}
        best = self.best.get("scores", scores)[main]
        logger.info(f"[Eval][Epoch {self.epoch}][Avg]{log.numbers(scores)}")
        logger.info(f"[Eval][Epoch {self.epoch}][best metric: {best:.5f}]")
        self.recorder.write("eval", self.epoch, self.updates, scores)
        if hasattr(self.schedule, "observe"):
            self.schedule.observe(scores[main])
        return scores

    def _evaluate_references(self) -> bool:
        """Score the fixed networks, once in a run, for comparison; False if interrupted."""
        for name, task in self.task.references.items():
            scores = self._run_evaluator(f"[{name}]", task)
            if scores is None:
                return False
            logger.info(f"[Eval][{name}, which does not change][Avg]{log.numbers(scores)}")
            self.recorder.write("reference", self.epoch, self.updates, {"network": name} | scores)
        return True

    def _run_evaluator(
        self, note: str = "", task: Supervised | None = None
    ) -> dict[str, float] | None:
        with (
            log.bar(f"[Eval]{note}[Epoch {self.epoch}]", len(self.evaluator.loader)) as bar,
            self.precision.test_cast(),
        ):
            # not when the time is over: a long evaluation would never end
            return self.evaluator.run(
                stop=lambda: self.stop.received is not None, on_batch=bar.update, task=task
            )

    def _totals(self) -> dict[str, float]:
        """The epoch's metrics and mean losses so far, over the images of all ranks."""
        self._means()
        return totals(self.metrics, self.meters, self.world)

    def _means(self) -> dict[str, float]:
        try:
            return self.meters.means()
        except NotFiniteError as error:
            self.keeper.wait()
            raise diverged.explained(error, self.loader, self.run_dir) from None

    def _save(self, names: Sequence[str], unwanted: Sequence[str] = ()) -> None:
        self.keeper.wait()  # messages name the last checkpoint
        self._means()  # a network whose loss is not finite must not replace a good checkpoint
        state = self.state()
        averaged = state["ema"]["weights"] if self.ema else {}
        for weights in (state["model"], averaged, *state["companions"].values()):
            diverged.require_finite(weights, self._done(), self.run_dir)
        if self.world.is_main:
            self.keeper.save(state, names, unwanted)

    def _end(self) -> FitResult:
        """Draw the run, say how it ended, and how to go on if it was stopped."""
        reasons = [s for s in self.world.gather(self.stop.why()) if s.text]
        stopped = reasons[0] if reasons and self._goes_on() else Reason()
        if stopped.text:
            self._save(["latest"])
            self.keeper.wait()
            logger.warning(
                f"Stopped by {stopped.text} {self._done()}. Nothing is lost: continue "
                f"with the same command and -o Global.checkpoints={self.run_dir / 'latest'}"
            )
        elif self.epoch <= self.epochs:
            logger.info(
                f"Ended after epoch {self.epoch - 1} of {self.epochs}: no better score in "
                f"{self.early_stop} evaluations (Global.early_stop)"
            )
        if self.world.is_main:
            self._draw()
        if self.world.size > 1 and stopped.text:
            self.stop.keep_status()
        self.world.barrier()  # the launcher ends all ranks soon after the first one's exit
        last = self.history[-1]["eval"] if self.history else None
        best = self.best.get("scores", {}) | {"epoch": self.best["epoch"]} if self.best else {}
        return FitResult(self.run_dir, best, last or {}, stopped.received, stopped.exit_code)

    def _draw(self) -> None:
        if self.history:
            plots.curves(self.history, self.run_dir / "curves.png")
        if self.evaluator:
            self.evaluator.report(self.run_dir, self.labels, self.best.get("metrics", {}))

    @property
    def _place(self) -> str:
        return f"[Epoch {self.epoch}/{self.epochs}]"

    def _done(self) -> str:
        if self.step_in_epoch:
            return f"in epoch {self.epoch}, after step {self.step_in_epoch} of {self.steps}"
        return f"after epoch {self.epoch - 1} of {self.epochs}"
