"""What test_ranks.py runs in one process and in two: a small training and its evaluation.

The network is PP-LCNet with frozen batch normalisation and without dropout, so that an image's
gradient does not depend on which process computes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite import kernels
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.engine.distributed import World, connect
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.metrics.topk import TopkAcc
from ppcls_lite.models.create import create_model
from ppcls_lite.optim.schedule import Cosine

CLASSES = 3
TOTAL_BATCH = 32


class Images:
    """Random images in memory, in batches as the samplers of the ranks cut them."""

    paths = ()

    def __init__(self, count: int, world: World, evaluation: bool = False) -> None:
        rng = np.random.default_rng(count)
        self.images = rng.standard_normal((count, 3, 32, 32)).astype(np.float32)
        self.labels = rng.integers(0, CLASSES, count)
        self.sampler = DistributedBatchSampler(TOTAL_BATCH // world.size, not evaluation, seed=5)
        self.sampler.bind(count, world.size, world.rank, evaluation)

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        for keys in self.sampler.batches(epoch, start_step):
            chosen = [key.index for key in keys]
            yield {
                "image": paddle.to_tensor(self.images[chosen]),
                "label": paddle.to_tensor(self.labels[chosen]),
                "index": paddle.to_tensor(chosen),
            }


def frozen_network(world: World) -> nn.Layer:
    paddle.seed(1 + world.rank)  # `share` must make them alike
    model = create_model("PPLCNet_x0_25", class_num=CLASSES, dropout_prob=0.0)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._use_global_stats = True
    world.share(model)
    return model


def run(world: World, run_dir: Path, update_freq: int = 1) -> None:
    """Train for two epochs; leaves the weights and, in result.json, every number of the run."""
    model = frozen_network(world)
    kernels.prepare(model, "auto", "cpu")
    task = Supervised(model, CombinedLoss([CELoss(epsilon=0.1)]))
    # 33 images: in the last step of an evaluation in two processes, one of them has none
    evaluator = Evaluator(
        task,
        Images(33, world, evaluation=True),
        [TopkAcc([1, 2]), ConfusionMatrix()],
        CombinedLoss([CELoss()]),
        world,
    )
    loader = Images(70, world)
    plan = Plan(epochs=2, update_freq=update_freq, print_batch_step=1)
    state = TrainingState(
        task,
        paddle.optimizer.Momentum(0.1, 0.9, model.parameters(), weight_decay=1e-4),
        Cosine(epochs=2, step_each_epoch=len(loader), learning_rate=0.1),
        steps=plan.steps(len(loader)),
        metrics=[TopkAcc([1, 2])],
        world=world,
    )
    writer = Writer(run_dir, active=world.is_main)
    Trainer(state, loader, plan, writer, evaluator).fit()
    result = {
        "history": state.history,
        "first": evaluator.run(),
        "matrix": evaluator.kept()["ConfusionMatrix"]["matrix"].tolist(),
        "everywhere": world.gather(sum(float(p.abs().sum()) for p in model.parameters())),
        "from_main": world.gather(world.from_main(lambda: f"made by rank {world.rank}")),
    }
    if world.is_main:
        (run_dir / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    run(connect(), Path(sys.argv[1]))
