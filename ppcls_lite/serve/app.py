"""The service as an ASGI application: `POST /predict`, `GET /healthz`, `/metrics`, and pages.

A request's way, and who does what:

1. The event loop (one thread) reads the body, with limits (upload.py).
2. A decode thread looks at the file's header, decodes and pre-processes the image.
3. The event loop gathers what is ready into a batch (batcher.py).
4. A runner thread hands the batch to the engine, which lives in a process of its own so that the
   event loop stays free (inference/engine_process.py), and turns the outputs into answers.

All counters and queues are touched by the event loop's thread alone; threads get arguments and give
results. The predictor's own methods are safe in threads. Read next: server.py (start and end).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

import cv2
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ppcls_lite import __version__
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.maps import Maps, over_photograph
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.preprocess import Meta, Prepared
from ppcls_lite.serve.batcher import Answer, Batcher
from ppcls_lite.serve.metrics import CONTENT_TYPE, Metrics
from ppcls_lite.serve.openapi import NO_MAPS, description
from ppcls_lite.serve.options import ServeOptions
from ppcls_lite.serve.pages import Pages
from ppcls_lite.serve.refusal import PAUSE, Memory, Places, Refused, Upload, Uploads
from ppcls_lite.serve.upload import check_header, read_image

log = logging.getLogger("ppcls_lite")

GIVE_UP = 3  # a batch that runs for so many times `timeout` ends the service
LAYER_EDGE = 1024  # pixels of the longer edge of what a page lays over an image, at most
_LAST_BATCH = 1.0  # seconds
_EXAMPLE_EDGE = 64  # pixels of the grey picture whose answer is an example
CLIENT_GONE = 499  # in the metrics only; nobody receives it


class Service:
    """The handlers and what they share."""

    def __init__(
        self, predictor: Predictor, options: ServeOptions, maps: Maps | None = None
    ) -> None:
        self.predictor = predictor
        self.maps = maps
        self.options = options
        self.draining = False
        self.uploads = Uploads(options.upload_memory)
        self.queue = Places(options.queue, "requests are being worked on")
        self.metrics = Metrics(lambda: self.queue.taken)
        self._memory = Memory(options.decode_memory)
        self._decoding = 0
        self._told: set[type[Exception]] = set()
        self._batcher: Batcher | None = None
        self._abandoned = False
        self.pages = Pages(predictor.spec.model_name, has_maps=maps is not None)
        self._example: Answer | None = None

    @property
    def alive(self) -> bool:
        """Whether the engine can run."""
        return getattr(self.predictor.engine, "alive", True)

    @property
    def stuck(self) -> bool:
        """Whether a batch has been running for longer than an answer may take."""
        return self._running_for() > self.options.timeout

    @property
    def failure(self) -> str | None:
        """Why the service has to end, in words; `None`: it can go on."""
        if not self.alive:
            return "the engine's process died"
        if self._abandoned or self._running_for() > GIVE_UP * self.options.timeout:
            return "the engine's process does not answer"
        return None

    def refusal(self) -> Refused | None:
        """Why a prediction is refused now, whatever it is; `None`: it is not."""
        if self.stuck:
            return Refused(503, "the engine does not answer")
        return self.queue.refusal()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Threads and the batcher live as long as the service."""
        self._threads = ThreadPoolExecutor(self.options.decode_threads, "decode")
        self._batcher = Batcher(
            self._run, self.options.max_batch, self.options.max_wait, lambda: self._decoding
        )
        yield
        # Whoever waited for a batch has been answered or refused by now.
        self._abandoned = not await self._batcher.close(_LAST_BATCH)
        self._batcher = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: the answer to one image."""
        start = time.perf_counter()
        coming = request.scope.get("state", {}).get("coming")
        try:
            with self.uploads.one() as upload:
                data = await read_image(request, self.options, upload)
                self.uploads.arrived(upload)
                self.queue.came(coming)
                with self.queue:
                    asked = request.query_params
                    wanted = self._wanted_map(asked.get("map"))
                    answering = self._answer(data, upload, "layer" in asked, wanted)
                    del data
                    answer = await asyncio.wait_for(answering, self.options.timeout)
        except asyncio.TimeoutError:
            response = _error(504, f"no answer within {self.options.timeout:g} seconds")
        except Refused as refused:
            self.queue.came(coming)
            if refused.status == 429:
                await asyncio.sleep(PAUSE)
            response = _error(refused.status, refused.message, refused.headers)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        except ImageError as error:
            response = _error(422, str(error).removeprefix("the image: "))
        except UserError as error:
            status = 422 if self.alive else 503
            response = _error(status, str(error))
        else:
            self.metrics.seconds.observe(time.perf_counter() - start)
            failed = "error" in answer  # the network's own answer is no number
            response = _error(500, answer["error"]) if failed else JSONResponse(answer)
        finally:
            self.queue.came(coming)
        self.metrics.requests.labels(response.status_code).inc()
        return response

    async def health(self, request: Request) -> Response:
        """`GET /healthz`: 200 while requests are answered, 503 when it ends or is broken."""
        status = "draining" if self.draining else "ok" if self.alive else "engine died"
        if status == "ok" and self.stuck:
            status = "engine does not answer"
        facts = {"status": status, "model": self.predictor.spec.model_name}
        return JSONResponse(facts, 200 if status == "ok" else 503)

    async def show_metrics(self, request: Request) -> Response:
        """`GET /metrics`: Prometheus' text format."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`: what the service answers, with an answer of this network."""
        if self._example is None and self.refusal() is None:
            with (
                contextlib.suppress(Refused, UserError, asyncio.TimeoutError),
                self.uploads.one() as upload,
                self.queue,
            ):
                answering = self._answer(_grey_picture(), upload)
                answer = await asyncio.wait_for(answering, self.options.timeout)
                self._example = None if "error" in answer else answer
        name = self.predictor.spec.model_name
        known = self._example, self.maps is not None
        return JSONResponse(description(name, __version__, self.options, *known))

    def _wanted_map(self, text: str | None) -> int | None:
        """The class whose map is asked for; None: there is to be none.

        Raises UserError for what is no class, or where there are no maps; Refused where their
        process is gone.
        """
        if text is None:
            return None
        if self.maps is None:
            raise UserError(f"map: {NO_MAPS}")
        if not self.maps.alive:
            raise Refused(503, "map: its process has ended; predictions go on")
        if not (text.isdecimal() and text.isascii() and len(text) < 7):
            raise UserError(f"map: expected the number of a class, found {text[:20]!r}")
        return int(text)

    async def _answer(
        self, data: bytes, upload: Upload, with_layer: bool = False, wanted: int | None = None
    ) -> Answer:
        self._decoding += 1
        job = self._threads.submit(self._decode, data)
        del data
        try:
            prepared = await asyncio.wrap_future(job)
        finally:
            self._decoding -= 1
            if not job.cancel() and not job.done():
                self._keep_place(job)  # given up, but its thread goes on
        upload.release()
        assert self._batcher is not None
        answer = await self._batcher.submit(prepared)
        if "error" in answer or (wanted is None and not with_layer):
            return answer
        if wanted is not None:
            job = self._threads.submit(self._with_map, answer, prepared, wanted)
        else:
            job = self._threads.submit(self._with_layer, answer, prepared.meta)
        del prepared
        return await asyncio.wrap_future(job)

    def _with_map(self, answer: Answer, prepared: Prepared, wanted: int) -> Answer:
        """The answer with the map of a class as its `layer`."""
        assert self.maps is not None
        maps = self.maps.of(prepared.array)  # (classes, h, w)
        if wanted >= len(maps):
            raise UserError(f"map: expected a class from 0 to {len(maps) - 1}, found {wanted}")
        return {**answer, "layer": _png(over_photograph(maps[wanted], prepared, LAYER_EDGE))}

    def _with_layer(self, answer: Answer, meta: Meta) -> Answer:
        """The answer with `layer`: what the page lays over the photograph, a PNG as base64.

        Where classes have colours in it, `colours` has them in the order of `class_ids`.
        """
        postprocess = self.predictor.postprocess
        if postprocess.draw_threshold is not None:
            answer = {**answer, "draw_threshold": postprocess.draw_threshold}
        layer = postprocess.layer(answer, (meta.height, meta.width))
        if layer is None:
            return answer
        shrink = LAYER_EDGE / max(layer.shape[:2])
        if shrink < 1:
            size = [max(1, round(edge * shrink)) for edge in layer.shape[1::-1]]
            layer = cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST)
        colours = self.predictor.postprocess.colours_in_layer(answer)
        known = {"colours": colours} if colours else {}
        return {**answer, "layer": _png(layer), **known}

    def _keep_place(self, job: Future[Prepared]) -> None:
        """Count a request as at work until its thread has ended."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            self.queue.taken -= 1

        def done(job: Future[Prepared]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(leave)

        self.queue.taken += 1
        job.add_done_callback(done)

    def _decode(self, data: bytes) -> Prepared:
        with self.metrics.decode.time():
            size = check_header(data, self.options.max_pixels)
            try:
                with self._memory.hold(size):
                    return self.predictor.pipeline.prepare(data)
            except UserError:
                raise
            except Exception as error:  # hostile files find what decoders do not expect
                if type(error) not in self._told:  # strangers do not fill the log
                    self._told.add(type(error))
                    log.warning("an image cannot be prepared, said once of its kind: %r", error)
                raise ImageError(f"the image cannot be prepared: {type(error).__name__}") from error

    def _running_for(self) -> float:
        """Seconds since the oldest running batch was begun."""
        return 0.0 if self._batcher is None else self._batcher.longest()

    def _run(self, batch: list[Prepared]) -> list[Answer]:
        self.metrics.batch.observe(len(batch))
        with self.metrics.inference.time():
            outputs = self.predictor.pipeline.run([item.array for item in batch])
        return self.predictor.pipeline.answer(outputs, [item.meta for item in batch])


def make_app(service: Service) -> Starlette:
    """The ASGI application; every error is JSON, `{"error": message}`."""
    routes = [
        Route("/", service.pages.index),
        Route("/docs", service.pages.docs),
        Route("/page/{name}", service.pages.part),
        Route("/openapi.json", service.openapi),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", service.show_metrics),
    ]
    handlers = {HTTPException: _http_error, Exception: _bug}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)


def _png(layer: np.ndarray) -> str:
    """(H, W, 4) uint8 RGBA as a PNG in base64."""
    _, data = cv2.imencode(".png", layer[..., [2, 1, 0, 3]])
    return base64.b64encode(data.tobytes()).decode("ascii")


def _grey_picture() -> bytes:
    return cv2.imencode(".png", np.full((_EXAMPLE_EDGE, _EXAMPLE_EDGE, 3), 128, np.uint8))[
        1
    ].tobytes()


async def _http_error(request: Request, error: Exception) -> Response:
    """404, 405 and whatever else Starlette refuses."""
    if not isinstance(error, HTTPException):
        raise error
    where = f"{request.method} {request.url.path}: {error.detail}"
    return _error(error.status_code, where, dict(error.headers or {}))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(500, "internal error; the service's log says more")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)
