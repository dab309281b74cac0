"""One batch: read its samples, replace the unreadable ones, stack, mix. Runs in a worker process.

Read before: dataset_base.py. Read next: workers.py (the processes), loader.py (who asks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.errors import ImageError, UserError

RETRIES = 10  # other samples that are tried in place of an unreadable one

Specs = dict[str, tuple[tuple[int, ...], np.dtype]]  # name -> shape and type
Allocate = Callable[[Specs], dict[str, np.ndarray]]


@dataclass
class Fetched:
    """A batch: the first `count` rows of its arrays, and the files that could not be read."""

    arrays: dict[str, np.ndarray]
    count: int
    bad: list[tuple[str, str]] = field(default_factory=list)  # path, reason


def new_arrays(specs: Specs) -> dict[str, np.ndarray]:
    """Uninitialised arrays in ordinary memory."""
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in specs.items()}


@dataclass(eq=False)
class Fetcher:
    """Makes batches of `dataset`: `fetcher(step, keys)`.

    Where nothing is mixed, images stay uint8 (N, H, W, C), a quarter of the bytes on their way
    between processes, and `deferred` holds the normalizer that the receiver applies. Batch
    transforms need finished images, so before them the normalisation happens here.

    Args:
        batch_transforms: called in turn as `op(batch, rng)` on the stacked arrays.
        on_bad: what happens to an unreadable image: "replace" takes another sample, "skip"
            makes the batch smaller, "raise" stops.
        rank: of this process; part of the seed of the batch transforms.
    """

    dataset: Any
    batch_transforms: Sequence[Any] = ()
    on_bad: Literal["replace", "skip", "raise"] = "replace"
    rank: int = 0

    def __post_init__(self) -> None:
        self.dataset, normalizer = self.dataset.split_tail()
        self.deferred = None if self.batch_transforms else normalizer
        self._normalizer = normalizer if self.batch_transforms else None
        self._uint8 = normalizer is not None

    def __call__(
        self, step: int, keys: Sequence[SampleKey], allocate: Allocate = new_arrays
    ) -> Fetched:
        """The batch of `keys`; its arrays come from `allocate`.

        UserError for an unreadable image that must not be replaced, too many in a row, or samples
        of different sizes.
        """
        fetched = Fetched({}, 0)
        mixes = bool(self.batch_transforms)
        for key in keys:
            found = self._read(key, fetched.bad)
            if found is None:
                continue
            sample = self._chosen(*found)
            if not fetched.arrays:
                specs = {n: ((len(keys), *v.shape), self._type(n, v)) for n, v in sample.items()}
                fetched.arrays = (new_arrays if mixes else allocate)(specs)
            for name, value in sample.items():
                array = fetched.arrays[name]
                if array.shape[1:] != value.shape:
                    raise self._uneven(name, array.shape[1:], value.shape, found[0])
                array[fetched.count] = value
            fetched.count += 1
        if mixes and fetched.count:
            arrays = {name: array[: fetched.count] for name, array in fetched.arrays.items()}
            fetched.arrays = self._mix(arrays, keys[0].epoch, step, allocate)
        return fetched

    def _chosen(self, index: int, sample: dict[str, Any]) -> dict[str, np.ndarray]:
        """What of a sample goes into the batch."""
        missing = [name for name in self.dataset.batch_keys if name not in sample]
        if missing:
            raise UserError(
                f"{self.dataset.paths[index]}: its sample has no {missing[0]!r}, which batch_keys "
                f"of {type(self.dataset).__name__} names; it has {', '.join(sorted(sample))}"
            )
        chosen = {name: np.asarray(sample[name]) for name in self.dataset.batch_keys}
        return chosen | {"index": np.asarray(index)}

    def _type(self, name: str, value: np.ndarray) -> np.dtype:
        """The type in a batch: images stay uint8 only until they are normalised."""
        if name == "image" and value.dtype == np.uint8 and not self._uint8:
            return np.dtype(np.float32)
        return np.dtype(np.float32) if value.dtype == np.float64 else value.dtype

    def _read(
        self, key: SampleKey, bad: list[tuple[str, str]]
    ) -> tuple[int, dict[str, Any]] | None:
        """The index and the sample of `key`, or of the one that replaces it."""
        first = key.index
        key = self.dataset.locate(key)
        for attempt in range(RETRIES + 1):
            path = self.dataset.paths[key.index]
            try:
                return key.index, self.dataset[key]
            except ImageError as error:
                bad.append((path, str(error).removeprefix(f"{path}: ")))
                if self.on_bad == "raise":
                    raise UserError(
                        f"an image of the evaluation cannot be used: {path}: {bad[-1][1]}. Leaving "
                        "it out would change the score; repair it, or allow it with "
                        "-o Global.eval_skip_bad=True"
                    ) from error
                if self.on_bad == "skip":
                    return None
                other = np.random.default_rng((self.dataset.seed, key.epoch, first, attempt, 3))
                key = key._replace(index=int(other.integers(len(self.dataset))))
                key = self.dataset.locate(key)
            except UserError as error:
                raise type(error)(f"{path}: {error}") from error
            except Exception as error:
                raise RuntimeError(f"{path}: {type(error).__name__}: {error}") from error
        names = "\n  ".join(f"{path}: {reason}" for path, reason in bad[-3:])
        raise UserError(
            f"{RETRIES + 1} images drawn in turn cannot be used; the last ones:\n  {names}"
        )

    def _mix(
        self, arrays: dict[str, np.ndarray], epoch: int, step: int, allocate: Allocate
    ) -> dict[str, np.ndarray]:
        """Normalise the stacked images, apply the batch transforms, move the result over."""
        if self._normalizer is not None:
            arrays["image"] = self._normalizer.normalize_batch(arrays["image"])  # (N, C, H, W)
        rng = np.random.default_rng((self.dataset.seed, epoch, step, self.rank, 4))
        for transform in self.batch_transforms:
            arrays = transform(arrays, rng)
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        target = allocate({name: (array.shape, array.dtype) for name, array in arrays.items()})
        for name, array in arrays.items():
            target[name][...] = array
        return target

    def _uneven(self, name: str, first: Any, second: Any, index: int) -> UserError:
        remedy = (
            "all samples of a batch need one size: end transform_ops with RandCropImage "
            "(training) or ResizeImage and CropImage (evaluation)"
        )
        if name != "image":
            remedy = f"fixed_rows of {type(self.dataset).__name__} fills up what differs in length"
        return UserError(
            f"{self.dataset.paths[index]}: its {name} has the shape {second}, the batch began with "
            f"{first}; {remedy}"
        )
