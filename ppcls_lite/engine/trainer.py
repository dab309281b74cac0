"""The training loop: `fit` is the run, `step` is one update. Both fit on a screen.

The trainer moves a `TrainingState` (network, loss, optimizer, the place in the run) over a loader
as a `Plan` says, and hands what is worth keeping to a `Writer`. The state is written after every
epoch, in between where that is asked for, and when the run is interrupted; `resume` continues at
the exact step. On a CPU a run that was stopped and resumed ends with the same weights, bit by bit,
and the same records as any other.
Read next: training_state.py, plan.py, writer.py, scoring.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppcls_lite.engine import checkpoint, diverged, log, memory, scoring
from ppcls_lite.engine.accumulate import shares
from ppcls_lite.engine.callbacks import Callback, Callbacks, FitResult, Progress
from ppcls_lite.engine.evaluate import Evaluator, Loader, results, totals
from ppcls_lite.engine.meters import NotFiniteError, Origin
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.signals import Reason, StopSignals
from ppcls_lite.engine.tasks import Batch
from ppcls_lite.engine.training_state import Before, TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")


class Trainer:
    """Trains the task of `state` over `loader`; `evaluator` scores its network between epochs.

    In a world of several ranks each trains on its part of every batch, and rank 0 writes.
    """

    def __init__(
        self,
        state: TrainingState,
        loader: Loader,
        plan: Plan,
        writer: Writer,
        evaluator: Evaluator | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if len(loader) == 0:
            raise UserError(
                "the training set yields no batch. With drop_last, it needs at least one whole "
                "batch: lower DataLoader.Train.sampler.batch_size"
            )
        if state.schedule.follows_score and evaluator is None:
            raise UserError(
                f"the schedule {type(state.schedule).__name__} follows the evaluation's score, but "
                "this run has no evaluation: set Global.eval_during_train and DataLoader.Eval"
            )
        if state.ema and state.ema.better_ships and evaluator is None:
            raise UserError(
                "EMA.ships: better compares two networks by their scores, but this run has no "
                "evaluation: set Global.eval_during_train and DataLoader.Eval, or leave it out"
            )
        self.state, self.loader, self.plan, self.writer = state, loader, plan, writer
        self.evaluator, self.world = evaluator, state.world
        self.watch, self.stop = log.Stopwatch(), StopSignals(plan.max_minutes)
        self.remaining = log.Remaining()
        self.up = evaluator is None or evaluator.higher_is_better  # where the main score is to go
        progress = Progress(state, plan, writer.run_dir, self.stop, self.up)
        self.callbacks = Callbacks(callbacks, progress, self.world.is_main)
        self.stopping = self.saving = False  # what some rank asks for after this step
        self.between_updates = False  # whether the state is one to resume from
        self.before: Before | None = None  # the way back to one, while an update is computed

    def fit(self) -> FitResult:
        """Train to the end, or to the first signal or time limit, which loses nothing.

        Raises `NotFiniteError` for a loss that is NaN or infinite, with advice.
        """
        state, plan = self.state, self.plan
        self.writer.open(state.lines)
        state.task.train()
        with self.stop, contextlib.closing(self.writer), self._saved_on_error():
            self.callbacks.start()
            self.remaining.start(state.updates)
            while not self.is_complete:
                state.task.loss.begin_epoch(state.epoch)
                with log.bar(plan.title(state.epoch), state.steps, state.step_in_epoch) as bar:
                    self.watch.restart()
                    for batches in self._updates():
                        self.step(batches)
                        if state.step_in_epoch % plan.print_batch_step == 0 or state.updates == 1:
                            self._report_step()
                        if bar.wants_values:
                            bar.tell(self._values())
                        bar.update()
                        if self.stopping or (self.world.size == 1 and self.stop):
                            return self._end()
                        if self.saving and state.step_in_epoch < state.steps:
                            self._save()
                if not self._finish_epoch():
                    break
            return self._end()

    def step(self, batches: Sequence[Batch]) -> None:
        """One update: forward and backward over `batches`, then the optimizer."""
        state, seen = self.state, []
        self.before = state.remember()
        lr = state.schedule(state.updates)
        state.optimizer.set_lr(lr)
        sizes = [batch["image"].shape[0] for batch in batches]
        parts = shares(state.task.loss, batches, self.world)
        for batch, size, share in zip(batches, sizes, parts):
            with state.precision.cast():
                losses, outputs = state.task.losses(batch)
            state.precision.backward(share.of(losses))
            seen.append((losses, size, outputs if state.metrics else None, batch))
        asked = bool(self.stop), self.writer.is_due(state.updates + 1)
        self.stopping, self.saving = self.world.average(state.task.trained, *asked)
        self.before, self.between_updates = None, False
        if state.precision.step(state.optimizer) and state.ema:
            state.ema.update()
        state.optimizer.clear_grad()
        state.step_in_epoch += 1
        self.between_updates = True
        for losses, size, outputs, batch in seen:
            origin = Origin(state.epoch, state.step_in_epoch, lr, batch.get("index"))
            state.meters.add(losses, size, losses.denominators, origin)
            for metric in state.metrics:
                metric.update(outputs, batch)
        self.watch.step(sum(sizes) * self.world.size)

    def rehearse(self) -> None:
        """Score one batch, if this run will: a mistake there must not cost an epoch."""
        if self.evaluator and not self.is_complete:
            with self.state.precision.test_cast():
                self.evaluator.run(stop=lambda: True)

    @property
    def is_complete(self) -> bool:
        """Whether no epoch is left to be trained."""
        return not self.plan.goes_on(self.state.epoch, self.state.evaluations_since_best)

    def resume(self, prefix: str | Path) -> Path | None:
        """Continue exactly where the checkpoint `prefix` was written.

        `auto` takes the newest whole one of the run folder, or starts a new run if there is none:
        then it returns None, otherwise the prefix. Raises `UserError` if it is damaged, of another
        network, optimizer or epoch length, or of other data.
        """
        if prefix == checkpoint.AUTO:
            run_dir = self.writer.run_dir
            found = self.world.from_main(lambda: checkpoint.load_newest(run_dir))
            if found is None:
                logger.info(f"No checkpoint in {run_dir}: this is a new run")
                return None
            prefix, saved = found
        else:
            saved = self.world.from_main(lambda: checkpoint.load(prefix))
        self.state.restore(saved, str(prefix))
        logger.info(f"Resumed {prefix}: {self._done()}")
        if self.is_complete:
            logger.info(
                "There is nothing to do: this run is complete. To train it further raise "
                "Global.epochs, or Global.early_stop if that ended it"
            )
        return Path(prefix)

    def _updates(self) -> Iterator[list[Batch]]:
        """The rest of the epoch's batches, `update_freq` at a time."""
        state, group = self.state, []
        start = state.step_in_epoch * self.plan.update_freq
        if start >= len(self.loader):  # stopped between the last step and the evaluation
            return
        for batch in self.watch.waits(self.loader.epoch(state.epoch, start)):
            if state.updates == 0 and not group:
                self.writer.first_batch(batch)
            group.append(batch)
            if len(group) == self.plan.update_freq:
                yield group
                group = []
        if group:
            yield group

    def _report_step(self) -> None:
        """Log and record the running averages."""
        state, values, costs = self.state, self._totals(), self.watch.costs()
        title, name = self.plan.title(state.epoch), type(state.schedule).__name__
        step, left = state.step_in_epoch, self.plan.epochs * state.steps - state.updates
        line = log.step_line(title, f"{step}/{state.steps}", name, state.lr, values, costs, left)
        logger.info(line, extra=log.STEP)
        record = {"lr": state.lr} | values | costs
        self.writer.record("step", state, record)
        self.callbacks.step(record)
        self.watch.restart()

    def _values(self) -> list[str]:
        """What a progress bar shows: of this rank's images, without a word to the others."""
        state = self.state
        self._require_finite_loss()
        means = state.meters.means()
        found = {name: means.pop(name) for name in ("loss",) if name in means}
        found |= results(state.metrics) | means | {"lr": state.lr}
        left = self.remaining.text(state.updates, self.plan.epochs * state.steps)
        shown = [log.short(name, value) for name, value in found.items()]
        return [*shown[:1], left, *shown[1:], f"{self.watch.costs()['ips']:.0f} images/s"]

    def _finish_epoch(self) -> bool:
        """Averages, evaluation and checkpoints of the finished epoch; False if interrupted."""
        state, lines, title = self.state, self.writer.lines, self.plan.title(self.state.epoch)
        evaluated = self.evaluator is not None and self.plan.is_evaluated(state.epoch)
        if evaluated:  # may fail or take long; the resumed run goes on with it
            self._save()
        lr, train, used = state.lr, self._totals(), memory.peak()
        self.between_updates = False
        logger.info(f"[Train]{title}[Avg]{log.numbers(train | used)}", extra=log.STEP)
        self.writer.record("train", state, {"lr": lr} | train | used)
        scores = None
        if evaluated:
            scores = scoring.score(state, self.evaluator, self.writer, self.stop)
            if scores is None:  # the resumed run evaluates again, from here
                self.writer.rewind(lines)
                return False
        state.finish_epoch(lr, train, scores)
        self._save(epoch_ended=True)
        self.between_updates = True
        self.callbacks.epoch()
        return not any(self.world.gather(bool(self.stop)))

    def _totals(self) -> dict[str, float]:
        """The epoch's metrics and mean losses so far, over the images of all ranks."""
        self._require_finite_loss()
        return totals(self.state.metrics, self.state.meters, self.world)

    def _require_finite_loss(self) -> None:
        try:
            self.state.meters.flush()
        except NotFiniteError as error:
            self.writer.wait()
            raise diverged.explained(error, self.loader, self.writer.run_dir) from None

    def _save(self, epoch_ended: bool = False) -> None:
        """Write the state, unless something in it is not finite: a good checkpoint would go."""
        between, self.between_updates = self.between_updates, False  # not again after an error
        self.writer.wait()  # messages name the last checkpoint
        self._require_finite_loss()
        self.state.lines = self.writer.lines
        saved = self.state.collect()
        averaged = saved["ema"]["weights"] if self.state.ema else {}
        for weights in (saved["model"], averaged, *saved["companions"].values()):
            diverged.require_finite(weights, self._done(), self.writer.run_dir)
        if epoch_ended:
            self.writer.save_epoch(saved, self.up)
        else:
            self.writer.save(saved)
        self.between_updates = between

    @contextlib.contextmanager
    def _saved_on_error(self) -> Iterator[None]:
        """Whatever ends the block costs no update that is done, on one rank or on all."""
        try:
            yield
        except NotFiniteError:
            raise
        except Exception as error:
            with contextlib.suppress(UserError):  # the first error is the one to show
                if self.world.stop_together(error):
                    self._save_after_error()
            raise

    def _save_after_error(self) -> None:
        """Save the state after the last update that all ranks have done, if all still have it."""
        state = self.state
        if self.before:
            state.go_back(self.before)
            self.before = None
        place = (state.epoch, state.step_in_epoch) if self.between_updates else None
        if any(other is None or other != place for other in self.world.gather(place)):
            return
        self._save()
        self.writer.wait()
        logger.warning(
            f"Saved {self._done()}. When the cause of the error is mended, continue "
            f"with -o Global.checkpoints={self.writer.run_dir / 'latest'}"
        )
        if self.world.size > 1:
            self.stop.keep_status()
        self.world.barrier()  # the launcher ends all ranks soon after the first one's exit

    def _end(self) -> FitResult:
        """Draw the run, say how it ended, and how to go on if it was stopped."""
        state, plan, run_dir = self.state, self.plan, self.writer.run_dir
        reasons = [s for s in self.world.gather(self.stop.why()) if s.text]
        stopped = reasons[0] if reasons and not self.is_complete else Reason()
        if stopped.text:
            self._save()
            self.writer.wait()
            if stopped.is_pause:
                logger.info(f"Paused by {stopped.text} {self._done()}")
            else:
                logger.warning(
                    f"Stopped by {stopped.text} {self._done()}. Nothing is lost: continue "
                    f"with the same command and -o Global.checkpoints={run_dir / 'latest'}"
                )
        elif state.epoch <= plan.epochs:
            logger.info(
                f"Ended after epoch {state.epoch - 1} of {plan.epochs}: no better score in "
                f"{plan.early_stop} evaluations (Global.early_stop)"
            )
        self.writer.finish(state, self.evaluator)
        if self.world.size > 1 and stopped.text:
            self.stop.keep_status()
        self.world.barrier()  # the launcher ends all ranks soon after the first one's exit
        last = state.history[-1]["eval"] if state.history else None
        best = state.best.get("scores", {}) | {"epoch": state.best["epoch"]} if state.best else {}
        how = stopped.received, stopped.exit_code, self.is_complete, stopped.text, stopped.is_pause
        result = FitResult(run_dir, best, last or {}, *how)
        self.callbacks.end(result)
        return result

    def _done(self) -> str:
        state = self.state
        return self.plan.done(state.epoch, state.step_in_epoch, state.steps)
