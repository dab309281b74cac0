"""What `/metrics` tells Prometheus. Each service has a registry of its own: no global state."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as as_text

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service; may be changed by any thread."""

    def __init__(self, in_queue: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        of = {"registry": self._registry}
        self.requests = Counter(
            "ppcls_requests", "Answers of POST /predict by HTTP status", ["status"], **of
        )
        self.seconds = Histogram(
            "ppcls_request_seconds", "From request to answer, status 200", buckets=_SECONDS, **of
        )
        self.decode = Histogram(
            "ppcls_decode_seconds", "Decoding and pre-processing an image", buckets=_SECONDS, **of
        )
        self.inference = Histogram(
            "ppcls_inference_seconds", "One batch through the network", buckets=_SECONDS, **of
        )
        self.batch = Histogram("ppcls_batch_size", "Images in a batch", buckets=_BATCH, **of)
        queue = Gauge("ppcls_queue", "Requests that are decoded, wait or run", **of)
        queue.set_function(in_queue)

    def text(self) -> bytes:
        """The text format of Prometheus."""
        return as_text(self._registry)
