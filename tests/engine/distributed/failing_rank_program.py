"""What test_ranks_failing.py runs in two processes: rank 1 fails, both stop, the run is resumed.

The network has dropout and batch normalisation, so that a resume is equal only if statistics and
random generators are those of the update at which both stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.distributed import World, connect
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.errors import TryAgainError
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.metrics.topk import TopkAcc
from ppcls_lite.optim.schedule import Cosine
from tests.engine.distributed.rank_program import CLASSES, Images

CALLS = 6  # of 3 updates in each of 3 epochs: the last of the second
Act = Callable[..., Any]


def network() -> nn.Layer:
    return nn.Sequential(
        *(nn.Conv2D(3, 4, 3, stride=4), nn.BatchNorm2D(4), nn.ReLU(), nn.AdaptiveAvgPool2D(1)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(4, CLASSES)),
    )


def trainer(world: World, run_dir: Path) -> Trainer:
    paddle.seed(1)
    model = network()
    world.share(model)
    paddle.seed(5 + world.rank)
    loader = Images(70, world)
    state = TrainingState(
        Supervised(model, CombinedLoss([CELoss()])),
        paddle.optimizer.Momentum(0.1, 0.9, model.parameters()),
        Cosine(epochs=3, step_each_epoch=len(loader), learning_rate=0.1),
        steps=len(loader),
        metrics=[TopkAcc([1])],
        world=world,
    )
    plan = Plan(epochs=3, print_batch_step=1)
    return Trainer(state, loader, plan, Writer(run_dir, active=world.is_main))


def failing(act: Act, error: Exception) -> Act:
    calls: list[int] = []

    def acting(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == CALLS:
            raise error
        return act(*arguments)

    return acting


def break_at(place: str, broken: Trainer, error: Exception) -> None:
    """Let the trainer fail at its `CALLS`th visit of a place."""
    state = broken.state
    if place == "forward":
        state.task.losses = failing(state.task.losses, error)
    elif place == "metric":
        state.metrics[0].update = failing(state.metrics[0].update, error)
    elif place == "optimizer":
        state.optimizer.step = failing(state.optimizer.step, error)
    else:
        shown = failing(lambda batch: batch, error)
        epoch = broken.loader.epoch
        broken.loader.epoch = lambda *place: (shown(batch) for batch in epoch(*place))


def run(world: World, home: Path) -> None:
    """Train once as a whole; then, for each place, until it fails, and on."""
    trainer(world, home / "whole").fit()
    found = {}
    for place in ("data", "forward", "metric", "optimizer"):
        broken = trainer(world, home / place)
        if world.rank == 1:
            break_at(place, broken, TryAgainError(f"no {place} here"))
        try:
            broken.fit()
        except Exception as error:
            status = getattr(error, "exit_code", None)
            raised = f"{type(error).__name__}: {error}", status
        saved = checkpoint.load(home / place / "latest")
        resumed = trainer(world, home / place)
        resumed.resume("auto")
        resumed.fit()
        state = [saved["epoch"], saved["step_in_epoch"]]
        found[place] = {"raised": world.gather(raised), "saved": state}
    if world.is_main:
        (home / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    run(connect(), Path(sys.argv[1]))
