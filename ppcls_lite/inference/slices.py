"""Small objects in large photographs: slices are predicted one by one, and their answers merged.

Akyon et al. 2022, https://arxiv.org/abs/2202.06934. A slice is predicted as a photograph of its
own, so that the network sees its objects larger; the whole photograph is predicted as well, for
objects that are larger than a slice. Read before: predictor.py. Read next: postprocess/base.py
(`merged`), ../ops/nms.py (`merged_slices`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.pipeline import Observer
from ppcls_lite.inference.postprocess.base import Part, Result
from ppcls_lite.inference.views import window_starts

if TYPE_CHECKING:
    from ppcls_lite.inference.predictor import Predictor


class _Waiting(NamedTuple):
    """A photograph whose parts are being predicted."""

    file: str
    size: tuple[int, int]  # (height, width)
    windows: list[tuple[int, int, int, int]]  # left, top, right, bottom; none of an unreadable one
    error: str = ""


class Sliced:
    """A predictor that sees photographs in slices.

    Args:
        predictor: what predicts a slice; its post-processing says how answers are merged.
        size: edge of a slice, in pixels of the photograph.
        overlap: share of a slice that the next one shows again. An object that is smaller is whole
            in one of them.

    Raises UserError for answers that cannot be merged.
    """

    def __init__(self, predictor: Predictor, size: int, overlap: float) -> None:
        if not predictor.postprocess.merges:
            kind = type(predictor.postprocess).__name__
            raise UserError(f"--slice: answers of {kind} for slices are none for the photograph")
        self.predictor, self.size = predictor, size
        self._stride = max(1, round(size * (1 - overlap)))

    def stream(
        self,
        images: Iterable[str | os.PathLike[str]],
        batch_size: int = 1,
        keep_going: bool = False,
        observe: Observer | None = None,
        decode_threads: int = 0,
    ) -> Iterator[Result]:
        """Like `Predictor.stream`, of files; a batch is of slices, which `observe` counts.

        There is a photograph or a few in memory, and the objects of their slices.
        """
        waiting: deque[_Waiting] = deque()
        options = (batch_size, keep_going, observe, decode_threads)
        found: list[Result] = []
        for result in self.predictor.stream(self._parts(images, keep_going, waiting), *options):
            yield from _unreadable(waiting)
            found.append(result)
            if len(found) == len(waiting[0].windows):
                yield self._whole(waiting.popleft(), found)
                found = []
        yield from _unreadable(waiting)

    def _parts(
        self,
        images: Iterable[str | os.PathLike[str]],
        keep_going: bool,
        waiting: deque[_Waiting],
    ) -> Iterator[np.ndarray]:
        """The slices of all images, and each image itself at last; notes what they belong to."""
        for image in images:
            file = os.fspath(image)
            try:
                picture = decode_rgb(read_file(file), file)
            except ImageError as error:
                if not keep_going:
                    raise
                waiting.append(_Waiting(file, (0, 0), [], str(error).removeprefix(f"{file}: ")))
                continue
            windows = self._windows(*picture.shape[:2])
            waiting.append(_Waiting(file, picture.shape[:2], windows))
            for left, top, right, bottom in windows:
                yield np.ascontiguousarray(picture[top:bottom, left:right])

    def _windows(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        whole = (0, 0, width, height)
        tops, lefts = (window_starts(n, self.size, self._stride) for n in (height, width))
        slices = [
            (left, top, min(left + self.size, width), min(top + self.size, height))
            for top in tops
            for left in lefts
        ]
        return [whole] if slices == [whole] else [*slices, whole]

    def _whole(self, image: _Waiting, found: Sequence[Result]) -> Result:
        bad = next((result["error"] for result in found if "error" in result), None)
        if bad is not None:
            return {"file": image.file, "error": bad}
        parts = [Part(*pair) for pair in zip(found, image.windows, strict=True)]
        if len(parts) > 1:
            parts[-1] = parts[-1]._replace(least=self.size - self._stride)
        return {"file": image.file, **self.predictor.postprocess.merged(parts, image.size)}


def _unreadable(waiting: deque[_Waiting]) -> Iterator[Result]:
    while waiting and not waiting[0].windows:
        image = waiting.popleft()
        yield {"file": image.file, "error": image.error}
