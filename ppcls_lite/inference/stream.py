"""Many images through a predictor, with decoding and inference at the same time.

    images -> decode threads -> batches -> two runner threads -> results, in the images' order

Only a few images and batches are on their way at any time, so the memory does not grow with the
number of images. Decoding releases Python's interpreter lock; Paddle's inference does not, so it
should live in a process of its own (engine_process.py). Read next: predict_cli.py.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ppcls_lite.errors import ImageError, UserError

if TYPE_CHECKING:
    from ppcls_lite.inference.predictor import Image, Observer, Predictor

Item = TypeVar("Item")
Made = TypeVar("Made")
_RUNNERS = 2  # one batch runs, the next is copied to the engine


class Decoded(NamedTuple):
    """An image after pre-processing, or why there is none."""

    file: str | None
    array: np.ndarray | None  # (C, H, W) float32
    error: str
    seconds: float


def overlapped(
    predictor: Predictor,
    images: Iterable[Image],
    batch_size: int,
    keep_going: bool,
    observe: Observer | None,
    threads: int,
) -> Iterator[dict[str, Any]]:
    """What `Predictor.stream` gives, with `threads` threads that decode ahead of inference."""
    decoded = ahead(
        partial(decode, predictor, keep_going), images, threads, 2 * batch_size + threads
    )
    run = partial(classify, predictor, observe)
    for results in ahead(run, batched(decoded, batch_size), _RUNNERS, _RUNNERS):
        yield from results


def decode(predictor: Predictor, keep_going: bool, image: Image) -> Decoded:
    """Pre-process one image; with `keep_going` an ImageError becomes part of the answer."""
    file = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
    start = time.perf_counter()
    try:
        array = predictor.preprocess(image)
    except ImageError as error:
        if not keep_going:
            raise
        message = str(error).removeprefix(f"{file}: ")
        return Decoded(file, None, message, time.perf_counter() - start)
    return Decoded(file, array, "", time.perf_counter() - start)


def classify(
    predictor: Predictor, observe: Observer | None, batch: list[Decoded]
) -> list[dict[str, Any]]:
    """The results of a batch, in its order."""
    arrays = [item.array for item in batch if item.array is not None]
    answers: Iterator[dict[str, Any]] = iter(())
    if observe:
        observe("preprocess", sum(item.seconds for item in batch), len(batch))
    if arrays:
        start = time.perf_counter()
        outputs = predictor.predict_images(arrays)
        if observe:
            observe("inference", time.perf_counter() - start, len(arrays))
        answers = iter(predictor.answers(outputs))
    return [
        {"file": item.file, "error": item.error}
        if item.array is None
        else {"file": item.file, **next(answers)}
        for item in batch
    ]


def ahead(
    function: Callable[[Item], Made], items: Iterable[Item], threads: int, limit: int
) -> Iterator[Made]:
    """`map` in the order of the items by several threads, at most `limit` items ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # an error, or the caller wants no more
            for future in waiting:
                future.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def require_one_shape(arrays: list[np.ndarray]) -> None:
    """Raise UserError if the pre-processed images of a batch differ in size."""
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise UserError(
            f"images of one batch have different shapes after pre-processing, {sorted(shapes)}; "
            "use batch_size=1 (--batch-size 1) or a fixed size in transform_ops"
        )
