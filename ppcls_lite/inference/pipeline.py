"""An image's way in three steps, and many images on it at the same time.

    images -> prepare (decode threads) -> batches -> run, answer (two runner threads) -> results

The steps know nothing of each other. The results come in the images' order, and only a few images
and batches are on their way at any time, so the memory does not grow with the number of images.
Decoding releases Python's interpreter lock; Paddle's inference does not, so it should live in a
process of its own (engine_process.py). Read next: predictor.py.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.postprocess.base import Result
from ppcls_lite.inference.preprocess import Image, Meta, Prepared
from ppcls_lite.inference.spec import Outputs

Observer = Callable[[Literal["preprocess", "inference", "postprocess"], float, int], None]
Item = TypeVar("Item")
Made = TypeVar("Made")
_RUNNERS = 2  # one batch runs, the next is copied to the engine


class _Decoded(NamedTuple):
    """An image after pre-processing, or why there is none."""

    file: str | None
    prepared: Prepared | None
    error: str
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Pre-processing, engine and post-processing; each may be called by several threads."""

    prepare: Callable[[Image], Prepared]
    run: Callable[[list[np.ndarray]], Outputs]  # inputs (C, H, W) of one batch
    answer: Callable[[Outputs, Sequence[Meta]], list[Result]]  # or {"error": message}

    def stream(
        self,
        images: Iterable[Image],
        batch_size: int = 1,
        keep_going: bool = False,
        observe: Observer | None = None,
        decode_threads: int = 0,
    ) -> Iterator[Result]:
        """Results one by one; the arguments are those of `Predictor.stream`."""
        if batch_size < 1:
            raise UserError(f"batch_size: expected a whole number from 1 on, found {batch_size}")
        decode = partial(self._decode, keep_going)
        finish = partial(self._finish, observe, keep_going)
        if decode_threads > 0:
            limit = 2 * batch_size + decode_threads
            decoded = ahead(decode, images, decode_threads, limit)
            batches = ahead(finish, batched(decoded, batch_size), _RUNNERS, _RUNNERS)
        else:
            batches = map(finish, batched(map(decode, images), batch_size))
        for results in batches:
            yield from results

    def _decode(self, keep_going: bool, image: Image) -> _Decoded:
        """Pre-process one image; with `keep_going` an ImageError becomes part of the answer."""
        file = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        start = time.perf_counter()
        prepared, message = None, ""
        try:
            prepared = self.prepare(image)
        except ImageError as error:
            if not keep_going:
                raise
            message = str(error).removeprefix(f"{file}: ")
        return _Decoded(file, prepared, message, time.perf_counter() - start)

    def _finish(
        self, observe: Observer | None, keep_going: bool, batch: list[_Decoded]
    ) -> list[Result]:
        """The results of a batch, in its order; error entries only with `keep_going`."""
        good = [item.prepared for item in batch if item.prepared is not None]
        answers: Iterator[Result] = iter(())
        if observe:
            observe("preprocess", sum(item.seconds for item in batch), len(batch))
        if good:
            start = time.perf_counter()
            outputs = self.run([item.array for item in good])
            if observe:
                observe("inference", time.perf_counter() - start, len(good))
            start = time.perf_counter()
            answers = iter(self.answer(outputs, [item.meta for item in good]))
            if observe:
                observe("postprocess", time.perf_counter() - start, len(good))
        results = [
            {"file": item.file, "error": item.error}
            if item.prepared is None
            else {"file": item.file, **next(answers)}
            for item in batch
        ]
        bad = next((result for result in results if "error" in result), None)
        if bad is not None and not keep_going:
            raise UserError(f"{bad['file'] or 'an image'}: {bad['error']}")
        return results


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
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
