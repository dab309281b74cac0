"""What test_ranks_distilled.py runs in one process and in two: a student, a fellow and a teacher.

The three networks are those of rank_program.py, whose answers do not depend on the split; images
without label and the classes' weights differ between the ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.distributed import World, connect
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.tasks import Distilled
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.losses.distillation_terms import (
    DistillationDistanceLoss,
    DistillationDMLLoss,
    DistillationGTCELoss,
)
from ppcls_lite.optim.schedule import Cosine
from ppcls_lite.system import safe_pickle
from tests.engine.distributed.rank_program import Images, frozen_network


def run(world: World, run_dir: Path) -> None:
    """Train for one epoch; leaves all weights of each rank in rank_N.pdparams."""
    networks = {name: frozen_network(world) for name in ("Teacher", "Fellow", "Student")}
    networks["Teacher"].fc.bias.set_value(np.array([1.0, 0.0, -1.0], np.float32))
    for name in ("Fellow", "Student"):
        networks[name].tap(["blocks4"])
    width = networks["Student"].channels[1]
    paddle.seed(1 + world.rank)  # `share` must make the adapters alike
    loss = CombinedLoss(
        [
            DistillationGTCELoss(model_names=["Student", "Fellow"]),
            CELoss(class_weight=[1.0, 5.0, 0.2]),
            DistillationDMLLoss(model_name_pairs=[["Student", "Teacher"]]),
            DistillationDistanceLoss(
                model_name_pairs=[["Student", "Fellow"]], key="blocks4", channels=[width, width]
            ),
        ]
    )
    task = Distilled(networks, loss, frozen=["Teacher"])
    world.share(task.trained)
    loader = Images(70, world)
    loader.labels[::3] = -1
    state = TrainingState(
        task,
        paddle.optimizer.Momentum(0.1, 0.9, task.trained.parameters(), weight_decay=1e-4),
        Cosine(epochs=1, step_each_epoch=len(loader), learning_rate=0.1),
        steps=len(loader),
        world=world,
    )
    Trainer(state, loader, Plan(epochs=1), Writer(run_dir, active=world.is_main)).fit()
    teacher = {f"Teacher.{k}": v for k, v in checkpoint.arrays(networks["Teacher"]).items()}
    weights = checkpoint.arrays(task.trained) | teacher
    safe_pickle.dump_atomic(weights, run_dir / f"rank_{world.rank}.pdparams")
    world.barrier()


if __name__ == "__main__":
    run(connect(), Path(sys.argv[1]))
