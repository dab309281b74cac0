"""The evaluation between two epochs: what is scored, and which epoch is the best so far.

Read before: trainer.py. Read next: evaluate.py, which scores one network.
"""

from __future__ import annotations

import logging

from ppcls_lite.engine import log
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.main_score import AVERAGED, main_score, may_win
from ppcls_lite.engine.signals import StopSignals
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer

logger = logging.getLogger("ppcls_lite")
Scores = dict[str, float]


def score(
    state: TrainingState, evaluator: Evaluator, writer: Writer, stop: StopSignals
) -> Scores | None:
    """The scores of the network after the running epoch, logged, recorded and compared.

    The first one is the main one, of the network that ships. With an average of the weights both
    networks are scored. None if a signal came meanwhile.
    """

    def run(note: str = "", task: Supervised | None = None) -> Scores | None:
        title = f"[Eval]{note}[Epoch {state.epoch}]"
        with log.bar(title, len(evaluator.loader)) as bar, state.precision.test_cast():
            # not stopped when the time is over: a long evaluation would never end
            return evaluator.run(
                stop=lambda: stop.received is not None, on_batch=bar.update, task=task
            )

    first = not any(entry["eval"] for entry in state.history)
    for name, task in state.task.references.items() if first else ():  # they do not change
        scores = run(f"[{name}]", task)
        if scores is None:
            return None
        logger.info(f"[Eval][{name}, which does not change][Avg]{log.numbers(scores)}")
        writer.record("reference", state, {"network": name} | scores)
    scores = run()
    kept = evaluator.kept()
    if scores is not None and state.ema:
        with state.ema.applied():
            averaged = run("[EMA]")
        if averaged is None:
            return None
        if _averaged_ships(state, evaluator, averaged, scores):
            kept = evaluator.kept()
            scores = _named(averaged) | scores
        else:
            scores = scores | _named(averaged)
    if scores is None:
        return None
    main = next(iter(scores))
    best = _best(state, main, writer)
    if evaluator.improves(scores, best):
        state.best = {"epoch": state.epoch, "scores": scores, "metrics": kept}
        best = scores[main]
    logger.info(f"[Eval][Epoch {state.epoch}][Avg]{log.numbers(scores)}", extra=log.STEP)
    shown = "none yet" if best is None else f"{best:.5f}"
    logger.info(f"[Eval][Epoch {state.epoch}][best metric: {shown}]", extra=log.STEP)
    writer.record("eval", state, scores)
    writer.show(evaluator.pictures(), state.updates)
    if state.schedule.follows_score:
        state.schedule.observe(scores[main])
    return scores


def _named(averaged: Scores) -> Scores:
    return {f"{name}{AVERAGED}": value for name, value in averaged.items()}


def _averaged_ships(
    state: TrainingState, evaluator: Evaluator, averaged: Scores, raw: Scores
) -> bool:
    """Whether the average is what this epoch's checkpoints offer; of equal ones it is."""
    ema = state.ema
    if ema.better_ships:
        main = next(iter(raw))
        ema.ships = evaluator.improves(averaged, raw[main] if may_win(raw) else None)
        chosen = "averaged" if ema.ships else "raw"
        logger.info(
            f"[Eval][Epoch {state.epoch}]the {chosen} network ships: {main} {averaged[main]:.5f} "
            f"averaged, {raw[main]:.5f} raw"
        )
    return ema.ships


def _best(state: TrainingState, main: str, writer: Writer) -> float | None:
    """The best score so far under the name `main`; None before the first.

    Where another main value decided before a resume, and this one was not computed, the two cannot
    be compared: that best network is kept under a name of its own.
    """
    scores = state.best.get("scores", {})
    found = main_score(scores, main)
    if scores and found is None:
        before = next(iter(scores))
        name = f"best_model_{before}"
        writer.keep_best_as(name)
        logger.warning(
            f"best_model of epoch {state.best['epoch']} was chosen by {before} "
            f"({scores[before]:.5f}); now {main} decides, which was not computed then. It is kept "
            f"as {name}, and the choice begins anew"
        )
    return found
