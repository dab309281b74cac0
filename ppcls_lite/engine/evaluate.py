"""The score of a network on a data set, computed the same way in training and afterwards.

Read next: trainer.py, which runs it between epochs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import Tensor

from ppcls_lite.engine import rng
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.main_score import NOT_FINITE, may_win
from ppcls_lite.engine.meters import Meters
from ppcls_lite.engine.tasks import Batch, Loss, Outputs, Supervised
from ppcls_lite.errors import UserError

logger = logging.getLogger("ppcls_lite")
State = Mapping[str, np.ndarray]


class Metric(Protocol):
    """Counts over batches. `result()` lists the main value first.

    `reports`: whether `report` writes tables or pictures of what `state()` holds. `paths`: the
    files of the images, which `batch["index"]` counts, for a report that names some.
    """

    paths: Sequence[str]
    higher_is_better: bool
    reports: bool

    def reset(self) -> None: ...
    def update(self, outputs: Outputs, batch: Batch) -> None: ...
    def result(self) -> dict[str, float]: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...
    def merge(self, states: Iterable[State]) -> None: ...
    def report(self, folder: Path, names: Sequence[str] | None) -> list[Path]: ...
    def summary(self, names: Sequence[str] | None) -> Sequence[str]: ...
    def intervals(self) -> Mapping[str, Sequence[Any]]: ...
    def certainty(self, wish: Any) -> Any: ...
    def pictures(self) -> Mapping[str, np.ndarray]: ...


class Loader(Protocol):
    """Batches of one epoch in an order that depends on the epoch's number only.

    paths: the file of each image, which `batch["index"]` counts; empty if they are in no files.
    """

    paths: Sequence[str]

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start_step: int = 0) -> Iterable[Batch]: ...


Run = Callable[[paddle.Tensor], Outputs]  # images (N, C, H, W) to a network's output


class Forward(Protocol):
    """How an evaluation runs a network; inference/graph_forward.py has a faster way for CPUs.

    Called with the network, the first batch's images and the number of batches, it gives the
    forward pass of this evaluation, valid in a `with` block.
    """

    def __call__(
        self, model: paddle.nn.Layer, images: paddle.Tensor, batches: int
    ) -> contextlib.AbstractContextManager[Run]: ...


@contextlib.contextmanager
def dygraph(model: paddle.nn.Layer, images: paddle.Tensor, batches: int) -> Iterator[Run]:
    """The `Forward` that is the network's own."""
    yield model


class Evaluator:
    """Runs a task's network over `loader` and collects `metrics` and the means of `loss`.

    The first value of the first metric is the main one, by which the best model is chosen (without
    metrics: `loss`, smaller is better). A loss is that of one batch with all images. In a `world`
    of several ranks each takes its part of the images, and what they collected is put together: the
    result is that of all images, on every rank. The network's mode and all random generators are
    left as they were: whether a run is evaluated does not change its training. `forward` chooses
    how the network is run.
    """

    def __init__(
        self,
        task: Supervised,
        loader: Loader,
        metrics: Sequence[Metric],
        loss: Loss | None = None,
        world: World | None = None,
        forward: Forward = dygraph,
    ) -> None:
        if not metrics and loss is None:
            raise UserError("an evaluation needs Metric.Eval or Loss.Eval; both are empty")
        self.task = task
        self.loader = loader
        self.metrics = list(metrics)
        self.loss = loss
        self.world = world or World()
        self.forward = forward
        self.higher_is_better = bool(self.metrics) and self.metrics[0].higher_is_better

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        on_batch: Callable[[], None] = lambda: None,
        task: Supervised | None = None,
    ) -> dict[str, float] | None:
        """Metric values, then loss means; the first one is the main one.

        Where images had NaN or infinity among their outputs, which a metric counts as wrong, the
        log says so, and `not_finite`, their number, is among the values. None if `stop()` said so,
        on this rank or another. `task`: another one than the usual.

        Raises `UserError` when the loader yields no batch.
        """
        for metric in self.metrics:
            metric.reset()
        meters = Meters()
        task = task or self.task
        training, generators = task.model.training, rng.state()
        task.eval()
        stopped, bad = False, []
        try:
            with paddle.no_grad(), contextlib.ExitStack() as while_running:
                run: Run | None = None
                for batch in self.loader.epoch(0):
                    if run is None:
                        forward = self.forward if task is self.task else dygraph
                        way = forward(task.model, batch["image"], len(self.loader))
                        run = while_running.enter_context(way)
                    outputs = task.named(run(batch["image"]))
                    bad.append(_not_finite(outputs, batch["image"].shape[0]))
                    self._add(outputs, batch, meters)
                    on_batch()
                    if stopped := stop():
                        break
        finally:
            rng.restore(generators)
            if training:
                task.train()
        parts = self.world.gather((stopped, sum(map(int, bad))))
        if any(stopped for stopped, _ in parts):
            return None
        merge(self.metrics, meters, self.world)
        means = meters.means()
        if meters.samples == 0:
            raise UserError("the evaluation set has no images: check DataLoader.Eval")
        found = results(self.metrics)
        if not found and "loss" not in means:
            raise UserError(
                "no image of the evaluation set has a label (all are -1), so there is no score: "
                "give DataLoader.Eval a list with labels, or a loss in Loss.Eval"
            )
        if not found:
            found["loss"] = means.pop("loss")
        return found | means | self._alarm(sum(count for _, count in parts), meters.samples)

    def _alarm(self, count: int, images: int) -> dict[str, float]:
        """`count` images without a finite answer: as a score and in the log, if there are any."""
        if not count:
            return {}
        logger.error(
            f"the network's outputs for {count:,} of {images:,} images are NaN or infinite; they "
            "count as wrong, and this evaluation cannot be the best one"
        )
        return {NOT_FINITE: float(count)}

    def _add(self, outputs: Outputs, batch: Batch, meters: Meters) -> None:
        for metric in self.metrics:
            metric.update(outputs, batch)
        images = batch["image"].shape[0]
        if self.loss is None:
            meters.add({}, images)
        else:
            terms = self.loss(outputs, batch)
            meters.add(terms, images, terms.denominators)

    def improves(self, scores: Mapping[str, float], best: float | None) -> bool:
        """Whether the main value of `scores`, the first, is as good as `best` (None: nothing yet).

        Of equal ones the later is the better one, as in PaddleClas: it has been trained longer,
        and a score of few images is soon as high as it can be.
        Never where it, or an answer behind it, is not finite.
        """
        if not may_win(scores):
            return False
        value = next(iter(scores.values()))
        if best is None:
            return True
        return value >= best if self.higher_is_better else value <= best

    def pictures(self) -> dict[str, np.ndarray]:
        """What the metrics show of the last run, (H, W, 3) uint8 by name."""
        return {name: p for metric in self.metrics for name, p in metric.pictures().items()}

    def summary(self, names: Sequence[str] | None) -> list[str]:
        """What the metrics say in words of the last run, with the names of the classes."""
        return [line for metric in self.metrics for line in metric.summary(names)]

    def intervals(self) -> dict[str, Sequence[Any]]:
        """How sure scores of the last run are: low, high, and how that was found, by name."""
        return {n: found for metric in self.metrics for n, found in metric.intervals().items()}

    def kept(self) -> dict[str, State]:
        """What `report` needs of the last run: the states of the metrics that report something."""
        return {type(m).__name__: m.state() for m in self.metrics if m.reports}

    def report(
        self, folder: Path, names: Sequence[str] | None, kept: Mapping[str, State]
    ) -> list[Path]:
        """Write the metrics' tables and pictures of a `kept` run into `folder`; returns the files.

        names: of the classes, where they have some.
        """
        files = []
        for metric in self.metrics:
            state = kept.get(type(metric).__name__)
            if state:
                metric.load_state(state)
                metric.paths = self.loader.paths
                files += metric.report(folder, names)
        return files


def _not_finite(outputs: Outputs, images: int) -> Tensor | int:
    """How many of the `images` have a number that is not finite in any of their outputs."""
    tensors, parts = [], [outputs]
    while parts:
        part = parts.pop()
        if isinstance(part, Tensor):
            tensors += [part] if part.is_floating_point() else []
        else:
            parts += part.values() if isinstance(part, Mapping) else part
    rows = [paddle.isfinite(t).reshape([images, -1]).all(axis=1) for t in tensors]  # (N,) each
    return (~paddle.stack(rows).all(axis=0)).sum() if rows else 0


def results(metrics: Sequence[Metric]) -> dict[str, float]:
    """The values of all `metrics`, in their order."""
    return {name: float(v) for metric in metrics for name, v in metric.result().items()}


def merge(metrics: Sequence[Metric], meters: Meters, world: World) -> None:
    """Put together what the ranks have collected, on each of them."""
    if world.size > 1:
        parts = world.gather(([metric.state() for metric in metrics], meters.state()))
        for place, metric in enumerate(metrics):
            metric.merge(states[place] for states, _ in parts)
        meters.merge(sums for _, sums in parts)


def totals(metrics: Sequence[Metric], meters: Meters, world: World) -> dict[str, float]:
    """Metric values and means over all ranks; each goes on collecting its own."""
    own = [metric.state() for metric in metrics], meters.state()
    merge(metrics, meters, world)
    found = results(metrics) | meters.means()
    if world.size > 1:
        for metric, state in zip(metrics, own[0]):
            metric.load_state(state)
        meters.load_state(own[1])
    return found
