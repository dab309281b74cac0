"""Dynamic batching: images of different requests run through the network together.

While a batch runs, others arrive; they become the next batch. An image waits for company only if
requests are on their way that are still being decoded, and `max_wait` seconds at most, so that a
lone request does not wait at all. Everything here belongs to the event loop's thread, except `run`,
which two runner threads call: one batch is copied while another runs (inference/engine_process.py).
Read next: app.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ppcls_lite.inference.preprocess import Prepared

Answer = dict[str, Any]
RUNNERS = 2


@dataclass(eq=False)
class _Waiting:
    prepared: Prepared
    future: asyncio.Future[Answer]


class Batcher:
    """Collects images into batches of one shape.

    Args:
        run: (list of pre-processed images of one shape) to one answer each; called by threads.
        max_batch: images per batch, at most.
        max_wait: seconds to wait for more.
        coming: how many more may arrive soon.
    """

    def __init__(
        self,
        run: Callable[[list[Prepared]], list[Answer]],
        max_batch: int,
        max_wait: float,
        coming: Callable[[], int],
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._coming = coming
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._runner_free = asyncio.Semaphore(RUNNERS)
        self._pool = ThreadPoolExecutor(RUNNERS, thread_name_prefix="runner")
        self._running: dict[asyncio.Task[None], float] = {}  # since when, the longest first
        self._collector = asyncio.create_task(self._collect())

    @property
    def waiting(self) -> int:
        """Images that are in no batch yet."""
        return len(self._waiting)

    async def submit(self, prepared: Prepared) -> Answer:
        """The answer for one image; raises what `run` raised for its batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        item = _Waiting(prepared, future)
        self._waiting.append(item)
        self._arrived.set()
        try:
            return await future
        finally:
            if future.cancelled() and item in self._waiting:  # given up
                self._waiting.remove(item)

    def longest(self) -> float:
        """For how many seconds the oldest batch has been running; 0 if none is."""
        begun = next(iter(self._running.values()), None)
        return 0.0 if begun is None else asyncio.get_running_loop().time() - begun

    async def close(self, seconds: float) -> bool:
        """Finish the batches that run, if they need no longer than that, and end.

        Whoever still waits is cancelled. Returns whether all were finished.
        """
        self._collector.cancel()
        running = list(self._running)
        late = (await asyncio.wait(running, timeout=seconds))[1] if running else ()
        for item in list(self._waiting):
            item.future.cancel()
        self._pool.shutdown(wait=False)
        return not late

    async def _collect(self) -> None:
        while True:
            await self._runner_free.acquire()
            batch: list[_Waiting] = []
            while not batch:
                await self._some_waiting()
                batch = self._take()
            task = asyncio.create_task(self._answer(batch))
            self._running[task] = asyncio.get_running_loop().time()
            task.add_done_callback(self._running.pop)

    async def _some_waiting(self) -> None:
        """Return when a batch is full, or nothing more is worth waiting for."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._max_wait
        while len(self._waiting) < self._max_batch and self._coming() > 0:
            left = end - loop.time()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """The first image and those of its shape; the others keep their places.

        Requests that were given up in the meantime (timeout) are dropped.
        """
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._waiting and len(batch) < self._max_batch:
            item = self._waiting.popleft()
            if item.future.done():
                continue
            if batch and item.prepared.array.shape != batch[0].prepared.array.shape:
                others.append(item)
            else:
                batch.append(item)
        self._waiting.extendleft(reversed(others))
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        images = [item.prepared for item in batch]
        try:
            answers = await loop.run_in_executor(self._pool, self._run, images)
        except Exception as error:  # belongs to those who wait, whatever it is
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
        else:
            for item, answer in zip(batch, answers, strict=True):
                if not item.future.done():
                    item.future.set_result(answer)
        finally:
            self._runner_free.release()
