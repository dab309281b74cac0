"""A tiny run that is complete: a network with dropout and batch normalisation, data in memory."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.engine.checkpoint_manager import CheckpointManager
from ppcls_lite.engine.ema import ExponentialAverage
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.plan import Plan
from ppcls_lite.engine.record import Recorder
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.engine.training_state import TrainingState
from ppcls_lite.engine.writer import Writer
from ppcls_lite.loggers.visualdl_logger import VisualDL
from ppcls_lite.losses.base import CombinedLoss, Loss
from ppcls_lite.report.pictures import RunPictures


class TinyNet(nn.Layer):
    def __init__(self, width=4, class_num=3):
        super().__init__()
        self.conv = nn.Conv2D(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2D(width)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(width, class_num)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.conv(x)))  # (N, width, H, W)
        return self.fc(self.drop(x.mean([2, 3])))  # (N, class_num)


class FunctionLoss(Loss):
    """A function of outputs and batch as the only term, `CELoss`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, outputs, batch):
        return {"CELoss": self.function(outputs, batch)}


def loss_of(function):
    """A whole loss of one function."""
    return CombinedLoss([FunctionLoss(function)])


cross_entropy = loss_of(lambda outputs, b: nn.functional.cross_entropy(outputs, b["label"]))


class LinearNet(nn.Sequential):
    """Without dropout and batch normalisation: a sample's output does not depend on the others."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(192, 3))


class MemoryLoader:
    """Shuffles by epoch, augments by (epoch, index), and can start in the middle."""

    def __init__(self, count=22, batch_size=4, shuffle=True, seed=7):
        rng = np.random.default_rng(seed)
        self.images = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
        self.labels = rng.integers(0, 3, count)
        self.batch_size, self.shuffle = batch_size, shuffle
        self.paths = [f"photo {i}.jpg" for i in range(count)]
        self.served = []

    def __len__(self):
        return math.ceil(len(self.images) / self.batch_size)

    def epoch(self, epoch, start_step=0):
        order = np.arange(len(self.images))
        if self.shuffle:
            np.random.default_rng(epoch).shuffle(order)
        for step in range(start_step, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            images = self.images[chosen]
            if self.shuffle:
                noise = [np.random.default_rng((epoch, i)).random() for i in chosen]
                images = images + np.array(noise, np.float32).reshape(-1, 1, 1, 1)
            self.served.append((epoch, step))
            yield {
                "image": paddle.to_tensor(images),
                "label": paddle.to_tensor(self.labels[chosen]),
                "index": paddle.to_tensor(chosen),
            }


class Accuracy:
    higher_is_better, reports = True, False

    def __init__(self):
        self.reset()

    def reset(self):
        self.right, self.seen = 0, 0

    def update(self, outputs, batch):
        self.right += int((outputs.argmax(1) == batch["label"]).sum())
        self.seen += len(batch["label"])

    def pictures(self):
        return {}

    def result(self):
        return {"top1": self.right / self.seen}

    def state(self):
        return {"right": np.asarray(self.right), "seen": np.asarray(self.seen)}

    def load_state(self, state):
        self.right, self.seen = int(state["right"]), int(state["seen"])


class Trace(Accuracy):
    """Reports its score."""

    reports = True

    def result(self):
        return {"trace": float(self.right)}

    def report(self, folder, names):
        file = folder / "trace.txt"
        file.write_text(f"{' '.join(names or ())} {self.result()['trace']}")
        return [file]


class Rate:
    """A schedule that is any function of the step."""

    follows_score = False

    def __init__(self, of_step):
        self.of_step = of_step

    def __call__(self, step):
        return self.of_step(step)


class Falling(Rate):
    """A schedule: 0.2 / (1 + step)."""

    def __init__(self):
        super().__init__(lambda step: 0.2 / (1 + step))


def taken(options, names):
    """Those of `options` that have these names; they are taken out."""
    return {name: options.pop(name) for name in names if name in options}


def build(run_dir, optimizer="Momentum", loader=None, loss=cross_entropy, net=TinyNet, **options):
    """A trainer as a recipe would compose it; `visualdl` and `pictures` are off (slow).

    `options` are those of the plan, the state and the checkpoints; `ema` is a decay.
    """
    paddle.seed(1)
    model = net()
    task = Supervised(model, loss)
    kind = getattr(paddle.optimizer, optimizer)
    optimizer = kind(0.1, parameters=model.parameters(), weight_decay=1e-3)
    evaluator = options.pop("evaluator", None) or Evaluator(
        task,
        MemoryLoader(10, 4, shuffle=False, seed=8),
        [Accuracy(), Trace()],
        cross_entropy,
    )
    loader = MemoryLoader() if loader is None else loader
    options = {"epochs": 3, "print_batch_step": 2, "metrics": [Accuracy()], **options}
    plan = Plan(**taken(options, [field.name for field in dataclasses.fields(Plan)]))
    saving = ("save_interval", "save_steps", "save_minutes", "keep_last", "keep_best")
    writer = Writer(
        run_dir,
        Recorder(run_dir, loggers=[VisualDL()] if options.pop("visualdl", False) else ()),
        CheckpointManager(run_dir, **taken(options, saving)),
        RunPictures(run_dir) if options.pop("pictures", False) else None,
    )
    if "ema" in options:
        options["ema"] = ExponentialAverage(model, options["ema"], use_warmup=True)
    schedule = options.pop("schedule", None) or Falling()
    state = TrainingState(task, optimizer, schedule, steps=plan.steps(len(loader)), **options)
    return Trainer(state, loader, plan, writer, evaluator)


@pytest.fixture
def tiny():
    """The pieces above, for tests of this folder."""
    return SimpleNamespace(
        build=build,
        Net=TinyNet,
        LinearNet=LinearNet,
        Loader=MemoryLoader,
        Accuracy=Accuracy,
        Trace=Trace,
        Falling=Falling,
        Rate=Rate,
        loss=cross_entropy,
        Loss=loss_of,
    )
