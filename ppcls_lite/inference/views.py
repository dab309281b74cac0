"""Scores of pixels for photographs of any size: through windows, and as the mean of several views.

One rule for evaluation and prediction, of a network and of every engine. A window moves over the
photograph by a stride, the last one shifted back inside; where windows overlap, the mean counts. An
image smaller than a window is filled up with zeros after normalisation. With `tta` each window is
seen mirrored as well and the scores are mirrored back; with `scales` the whole photograph is
resized first and its scores back (bilinear, half-pixel centres). Means are of the logits.
Without scales only a band of the photograph as high as a window has scores at any time: what a band
is finished with, as its classes, is all that grows with the photograph.
Read next: predictor.py, viewed_forward.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ppcls_lite.config.settings import TilingSettings, TtaSettings
from ppcls_lite.errors import UserError

Run = Callable[[np.ndarray], np.ndarray]  # (N, C, h, w) float32 -> scores (N, K, h, w)
Cut = Callable[[slice, slice], np.ndarray]  # rows and columns -> (C, h, w) float32
_MAX_SCORES = 2**31  # bytes of the scores of a whole photograph


class Band(NamedTuple):
    """Finished scores (K, rows, W) of a photograph from the row `first` on.

    They are valid until the next band is asked for.
    """

    first: int
    scores: np.ndarray


@dataclass(frozen=True)
class Views:
    """How a photograph is looked at: `tiling`, `tta`, or both."""

    tiling: TilingSettings | None = None
    tta: TtaSettings | None = None

    def __post_init__(self) -> None:
        if self.tiling and any(s > e for s, e in zip(self._stride, self.window or ())):
            raise UserError(
                f"Infer.tiling.stride: {list(self._stride[::-1])} is more than the size "
                f"{list(self.window[::-1])} (width, height): there would be gaps between windows"
            )

    @property
    def window(self) -> tuple[int, int] | None:
        """(height, width) of every input of the network; None: the whole photograph's."""
        return _height_width(self.tiling.size) if self.tiling else None

    @property
    def _stride(self) -> tuple[int, int]:
        stride = self.tiling.stride if self.tiling else None
        return self.window or (0, 0) if stride is None else _height_width(stride)

    def scores(self, run: Run, image: np.ndarray) -> np.ndarray:
        """The scores (K, H, W) of a whole image (C, H, W) float32."""
        bands = self.bands(run, lambda rows, columns: image[:, rows, columns], image.shape[1:])
        return np.concatenate([band.scores.copy() for band in bands], axis=1)

    def bands(self, run: Run, cut: Cut, size: Sequence[int]) -> Iterator[Band]:
        """The scores of an image of `size` (H, W), band by band from its top.

        `cut` gives the parts of the image that are asked for. Raises UserError where scales ask for
        more memory than a photograph should take.
        """
        scales = list(self.tta.scales) if self.tta else [1.0]
        if scales == [1.0]:
            yield from self._windows(run, cut, size)
            return
        total: np.ndarray | None = None
        whole = cut(slice(0, size[0]), slice(0, size[1]))  # (C, H, W)
        for scale in scales:
            resized = _resized(whole, [int(edge * scale + 0.5) for edge in size])
            part = Views(self.tiling).with_flips(self.tta).scores(run, resized)
            if math.prod(size) * len(part) * 4 > _MAX_SCORES:
                raise UserError(
                    f"Infer.tta.scales: the scores of a photograph of {size[1]} x {size[0]} pixels "
                    f"take {math.prod(size) * len(part) * 4 / 1e9:.1f} GB; leave the scales out "
                    "for photographs of this size, or make them smaller"
                )
            part = _resized(part, size)  # (K, H, W)
            total = part if total is None else np.add(total, part, out=total)
        yield Band(0, total / len(scales))

    def with_flips(self, tta: TtaSettings | None) -> Views:
        """These views with the mirrored ones of `tta`, without its scales."""
        flips = tta and TtaSettings([1.0], tta.flip_horizontal, tta.flip_vertical)
        return Views(self.tiling, flips)

    def _windows(self, run: Run, cut: Cut, size: Sequence[int]) -> Iterator[Band]:
        window = self.window or tuple(size)
        tops, lefts = (
            window_starts(*lengths) for lengths in zip(size, window, self._stride, strict=True)
        )
        high, wide = (min(pair) for pair in zip(window, size))
        sums: np.ndarray | None = None  # (K, rows, W) of windows that have been seen
        counts = np.zeros((high, size[1]), np.float32)
        for number, top in enumerate(tops):
            for left in lefts:
                piece = cut(slice(top, top + high), slice(left, left + wide))
                found = self._mirrored(run, _filled(piece, window))[:, :high, :wide]
                if sums is None:
                    sums = np.zeros((len(found), high, size[1]), np.float32)
                sums[:, :, left : left + wide] += found
                counts[:, left : left + wide] += 1
            last = number == len(tops) - 1
            done = high if last else tops[number + 1] - top
            yield Band(top, np.divide(sums[:, :done], counts[:done], out=sums[:, :done]))
            if not last:  # what goes on in the next row of windows moves up
                for array in (sums, counts[None]):
                    array[:, : high - done] = array[:, done:].copy()
                    array[:, high - done :] = 0

    def _mirrored(self, run: Run, piece: np.ndarray) -> np.ndarray:
        """The mean scores (K, h, w) of a piece (C, h, w) and its mirror images."""
        axes: list[tuple[int, ...]] = [()]
        if self.tta and self.tta.flip_horizontal:
            axes += [(2,)]
        if self.tta and self.tta.flip_vertical:
            axes += [(*axis, 1) for axis in axes]
        found = [
            np.flip(run(np.ascontiguousarray(np.flip(piece, axis))[None])[0], axis) for axis in axes
        ]
        return found[0] if len(found) == 1 else sum(found[1:], found[0]) / len(found)


def views_of(tiling: TilingSettings | None, tta: TtaSettings | None) -> Views | None:
    """The views of a recipe or a folder; None where a photograph is seen once, as a whole."""
    return Views(tiling, tta) if tiling or tta else None


def require_seen(views: Views | None, image_shape: Sequence[int]) -> None:
    """UserError if a program for images (C, H, W), -1 for any edge, does not take the windows."""
    if views is None:
        return
    window, sizes = views.window, image_shape[1:]
    if window and any(edge not in (-1, size) for edge, size in zip(sizes, window)):
        raise UserError(
            f"Infer.tiling.size: windows of {window[1]} x {window[0]} pixels (width, height), but "
            f"the network takes {sizes[1]} x {sizes[0]}: make the two agree, Global.image_shape is "
            f"{list(image_shape)}"
        )
    scaled = views.tta and views.tta.scales != [1.0]
    if scaled and not window and -1 not in sizes:
        raise UserError(
            "Infer.tta.scales: the network takes images of one size only; export it with "
            f"Global.image_shape [{image_shape[0]}, -1, -1], or give Infer.tiling"
        )


def _height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Of a size [width, height] or an edge."""
    return (size, size) if isinstance(size, int) else (size[1], size[0])


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: by strides, the last one as far back as it must."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / stride) + 1
    return [min(number * stride, length - window) for number in range(count)]


def _filled(piece: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """A piece (C, h, w) with zeros to its right and below, (C, *window)."""
    missing = [full - edge for full, edge in zip(window, piece.shape[1:])]
    if not any(missing):
        return piece
    return np.pad(piece, [(0, 0), *((0, edge) for edge in missing)])


def _resized(planes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(K, h, w) -> (K, *size), bilinear."""
    if planes.shape[1:] == tuple(size):
        return planes
    return np.stack([cv2.resize(plane, (size[1], size[0])) for plane in planes])
