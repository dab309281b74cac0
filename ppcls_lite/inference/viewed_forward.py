"""An evaluation through windows and several views: the same rule as a prediction's.

Read before: views.py, ../engine/evaluate.py (`Forward`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.inference.views import Views

Run = Callable[[Tensor], Any]


class Forward(Protocol):
    """How an evaluation runs a network."""

    def __call__(
        self, model: nn.Layer, images: Tensor, batches: int
    ) -> contextlib.AbstractContextManager[Run]: ...


class ViewedForward:
    """`forward` of windows and views, put together to the scores of each image."""

    def __init__(self, views: Views, forward: Forward) -> None:
        self.views, self.forward = views, forward

    @contextlib.contextmanager
    def __call__(self, model: nn.Layer, images: Tensor, batches: int) -> Iterator[Run]:
        window = self.views.window or tuple(images.shape[2:])
        sample = paddle.zeros([1, images.shape[1], *window])
        seen = int(np.ceil(np.prod(images.shape[2:]) / np.prod(window)))
        with self.forward(model, sample, batches * images.shape[0] * seen) as run:

            def scores(array: np.ndarray) -> np.ndarray:
                return run(paddle.to_tensor(array)).numpy()

            yield lambda images: paddle.to_tensor(
                np.stack([self.views.scores(scores, image) for image in images.numpy()])
            )
