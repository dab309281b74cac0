"""What test_ranks_detector.py runs in one process and in two: a small PicoDet's training.

Its batch normalisation is over the images of all processes. Some images show nothing: the ranks
have unlike numbers of boxes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite import kernels
from ppcls_lite.config.check import build
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.engine.distributed import World, connect
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.sync_norm import synchronized
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.losses.assigners import ATSS, TaskAligned
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.picodet import PicoDetLoss
from ppcls_lite.optim.schedule import Cosine

CLASSES, COUNT, TOTAL_BATCH, ROWS, SIZE = 2, 16, 8, 3, 64
RATE = 0.01


class Scenes:
    """Noise with up to three boxes an image, in batches as the samplers of the ranks cut them."""

    paths = ()

    def __init__(self, world: World) -> None:
        rng = np.random.default_rng(3)
        self.images = rng.standard_normal((COUNT, 3, SIZE, SIZE)).astype(np.float32)
        first = rng.uniform(0, 24, (COUNT, ROWS, 2))
        edges = rng.uniform(16, 40, (COUNT, ROWS, 2))
        self.boxes = np.concatenate([first, first + edges], axis=2).astype(np.float32)
        self.classes = rng.integers(0, CLASSES, (COUNT, ROWS))
        rows = rng.integers(0, ROWS + 1, COUNT)  # 0: an image without a box
        empty = np.arange(ROWS) >= rows[:, None]
        self.boxes[empty], self.classes[empty] = -1, -1
        assert (rows == 0).any()
        self.sampler = DistributedBatchSampler(TOTAL_BATCH // world.size, True, seed=5)
        self.sampler.bind(COUNT, world.size, world.rank, False)

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        for keys in self.sampler.batches(epoch, start_step):
            chosen = [key.index for key in keys]
            arrays = {"image": self.images, "boxes": self.boxes, "classes": self.classes}
            batch = {key: paddle.to_tensor(array[chosen]) for key, array in arrays.items()}
            yield batch | {"index": paddle.to_tensor(chosen)}


def network(world: World) -> nn.Layer:
    paddle.seed(1)
    parts = {"backbone": {"name": "PPLCNet_x0_25"}, "neck": {"name": "LCPAN", "out_channels": 16}}
    parts["head"] = {"name": "PicoHeadV2", "num_convs": 1}
    model = build({"PicoDet": parts}, "model", class_num=CLASSES)
    world.share(model)
    return synchronized(model, world) if world.size > 1 else model


def run(world: World, run_dir: Path) -> None:
    """Train for two epochs, one with each assigner; leaves weights and records."""
    model, loader = network(world), Scenes(world)
    kernels.prepare(model, "auto", "cpu")
    loss = PicoDetLoss(TaskAligned(), ATSS(), static_assigner_epoch=1, epochs=2)
    task = Supervised(model, CombinedLoss([loss]))
    plan = Plan(epochs=2, print_batch_step=1)
    learnt = [p for p in model.parameters() if not p.stop_gradient]
    state = TrainingState(
        task,
        paddle.optimizer.Momentum(RATE, 0.9, learnt, weight_decay=1e-4),
        Cosine(epochs=2, step_each_epoch=len(loader), learning_rate=RATE),
        steps=plan.steps(len(loader)),
        metrics=[],
        world=world,
    )
    Trainer(state, loader, plan, Writer(run_dir, active=world.is_main)).fit()


if __name__ == "__main__":
    run(connect(), Path(sys.argv[1]))
