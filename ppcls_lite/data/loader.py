"""Loader: batches of Paddle tensors from a data set, epoch by epoch.

The batches of an epoch are a function of (seed, epoch, step) and not of the number of workers, so
`epoch(e, start_step=s)` goes on exactly where an interrupted run stopped; an unreadable image never
passes unnoticed; mistakes of the user arrive as UserError.

Normalisation is done once per batch: on the GPU with a few Paddle operators, on the CPU with one
table look-up per byte (0.1 ms per 224x224 image, where the same Paddle operators take 1.4 ms).
Read before: samplers.py, fetch.py, workers.py.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import paddle
from paddle.utils import dlpack

from ppcls_lite.data import workers
from ppcls_lite.data.fetch import Fetched, Fetcher
from ppcls_lite.data.samplers import BatchSampler
from ppcls_lite.errors import UserError
from ppcls_lite.system.machine import usable_cores

log = logging.getLogger("ppcls_lite")

SHOWN = 5  # unreadable files that the log names
ENOUGH = 1000  # samples after which the share of unreadable ones means something
Batch = dict[str, paddle.Tensor]


@dataclass(eq=False)
class Loader:
    """Batches of `dataset` as `batch_sampler` cuts them.

    A batch is a dict: `image` (N, C, H, W) float32, what else the data set's `batch_keys` name
    (`label` (N,) int64, for example), and `index` (N,) int64, each image's place in the data set.
    `bad_files` are the unreadable files found so far, path -> reason.

    Args:
        batch_sampler: a sampler on which `bind` was called.
        batch_transforms: mixup and the like, called as `op(batch, rng)` on numpy arrays.
        num_workers: processes that read images, at most one per CPU core; 0 reads in this one.
        use_shared_memory: False sends batches through sockets instead (slower).
        training: another image takes the place of an unreadable one; in an evaluation that would
            change the score, so it is an error.
        skip_bad: in evaluation, leave unreadable images out.
        max_bad_ratio: share of unreadable images among those read that is an error (UserError);
            a single one is always let pass, unless this is 0.
    """

    dataset: Any
    batch_sampler: BatchSampler
    batch_transforms: Sequence[Any] = ()
    num_workers: int = 0
    use_shared_memory: bool = True
    _: KW_ONLY
    training: bool = True
    skip_bad: bool = False
    max_bad_ratio: float = 0.01

    def __post_init__(self) -> None:
        dataset = self.dataset
        if dataset.problems:
            raise UserError("\n  ".join(["mistakes in the data:", *dataset.problems]))
        if self.batch_transforms and dataset.has_unlabeled:
            raise UserError(
                "batch_transform_ops mix labels, but this data set has images without labels: "
                "leave the key out (batch_transform_ops: null)"
            )
        if not self.training:
            self._require_unchanged()
        self.paths: Sequence[str] = dataset.paths
        self.num_workers = usable_workers(self.num_workers)
        self.bad_files: dict[str, str] = {}
        self._read = 0
        on_bad = "replace" if self.training else "skip" if self.skip_bad else "raise"
        mixing, rank = tuple(self.batch_transforms), self.batch_sampler.rank
        self._fetcher = Fetcher(dataset, mixing, on_bad, rank)
        self._pool: workers.WorkerPool | None = None

    def _require_unchanged(self) -> None:
        """Every image of an evaluation is scored, once and as it is, or this is a UserError."""
        change = self.batch_sampler.changes_score()
        if self.batch_transforms:
            change = "batch_transform_ops mix images"
        if change:
            raise UserError(f"DataLoader.Eval: {change}; that is for training, leave it out here")
        self.dataset.without_chance()

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.batch_sampler)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_step` on; one epoch at a time.

        Raises UserError for unreadable images beyond what is allowed, samples that do not form a
        batch, or a worker that died.
        """
        tasks = self.batch_sampler.numbered(epoch, start_step)
        if self.num_workers:
            results = self._running_pool().run(tasks, self._finish)
        else:
            results = (self._finish(self._fetcher(step, keys)) for step, keys in tasks)
        yield from filter(None, results)

    def close(self) -> None:
        """End the worker processes; the next epoch starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _running_pool(self) -> workers.WorkerPool:
        if self._pool is None or self._pool.closed:
            self._pool = workers.WorkerPool(self._fetcher, self.num_workers, self.use_shared_memory)
        return self._pool

    def _finish(self, fetched: Fetched) -> Batch:
        """Note the unreadable files and make tensors; empty if no sample is left."""
        self._note(fetched)
        arrays = {name: array[: fetched.count] for name, array in fetched.arrays.items()}
        if not fetched.count:
            return {}
        batch = {}
        if self._fetcher.deferred is not None:
            batch["image"] = normalized(arrays.pop("image"), self._fetcher.deferred)
        return batch | {name: paddle.to_tensor(array) for name, array in arrays.items()}

    def _note(self, fetched: Fetched) -> None:
        self._read += fetched.count
        for path, reason in fetched.bad:
            if path not in self.bad_files and len(self.bad_files) < SHOWN:
                log.warning("unreadable image %s: %s", path, reason)
            self.bad_files[path] = reason
        # Shares among different images: in later epochs the same ones come again.
        total = len(self.dataset)
        seen = max(min(self._read, total), min(ENOUGH, total))
        allowed = max(1.0, self.max_bad_ratio * seen) if self.max_bad_ratio else 0
        if fetched.bad and len(self.bad_files) > allowed:
            first = [f"{path}: {why}" for path, why in list(self.bad_files.items())[:SHOWN]]
            raise UserError(
                f"{len(self.bad_files):,} unreadable images among the first {seen:,}, more than "
                f"max_bad_ratio = {self.max_bad_ratio:g} allows; the first ones:\n  "
                + "\n  ".join(first)
            )


@functools.cache  # says it once, not for every loader
def usable_workers(wanted: int) -> int:
    """`wanted`, but no more than one process per CPU core; 0 where processes are not supported."""
    if wanted and sys.platform != "linux":
        log.info("num_workers: %d -> 0, worker processes are only supported on Linux", wanted)
        return 0
    cores = usable_cores() if wanted else 0
    if wanted > cores:
        log.info("num_workers: %d -> %d, the number of CPU cores here", wanted, cores)
    return min(wanted, cores)


def normalized(images: np.ndarray, normalizer: Any) -> paddle.Tensor:
    """uint8 images (N, H, W, C) as the network's input (N, C, H, W) float32, on Paddle's device."""
    if not paddle.get_device().startswith("cpu"):
        return normalized_on_device(images, normalizer)
    return dlpack.from_dlpack(normalizer.normalize_batch(images))  # (N, C, H, W)


def normalized_on_device(images: np.ndarray, normalizer: Any) -> paddle.Tensor:
    """`normalized` with Paddle operators: only the bytes travel to the device."""
    factor = paddle.to_tensor(normalizer.factor).reshape([1, -1, 1, 1])
    offset = paddle.to_tensor(normalizer.offset).reshape([1, -1, 1, 1])
    planes = paddle.to_tensor(images).transpose([0, 3, 1, 2])  # (N, C, H, W)
    return planes.astype(paddle.float32) * factor + offset
