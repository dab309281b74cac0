"""Pre-processing: a picture in, the network's input out, with what happened on the way.

One for the predictor, the quantiser, teachers and the export's comparison. It runs what
`inference.yml` says by the functions of training and evaluation (data/transforms).
Read next: pipeline.py.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from ppcls_lite.config.check import build_list
from ppcls_lite.config.components import take_apart
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.geometry import Meta

# The way from an encoded file to a network's input begins with its header; the service asks it.
from ppcls_lite.data.transforms.image_header import KNOWN as KNOWN
from ppcls_lite.data.transforms.image_header import TooLarge as TooLarge
from ppcls_lite.data.transforms.image_header import is_known as is_known
from ppcls_lite.data.transforms.image_header import read_header as read_header
from ppcls_lite.data.transforms.normalize import Normalizer
from ppcls_lite.errors import UserError
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec
from ppcls_lite.inference.views import views_of

Image = str | os.PathLike[str] | bytes | np.ndarray | PIL.Image.Image


class Prepared(NamedTuple):
    """A network's input, and the way back: the picture's own size and where its pixels went."""

    array: np.ndarray  # (C, H, W) float32
    meta: Meta


class Preprocessor:
    """Turns pictures into a network's input.

    Args:
        ops: `transform_ops`, in any YAML form; without DecodeImage, it comes first.
        image_shape: (C, H, W) that the network takes, -1 for any; `None`: any at all.
        plugins: files that transforms may come from.
        window: (height, width) of a network that sees photographs through windows: what is given
            is the one in the photograph's middle.

    Attributes:
        normalizer: what `later` has left out.
    """

    def __init__(
        self,
        ops: Sequence[Any],
        image_shape: tuple[int, int, int] | None = None,
        plugins: Sequence[str] = (),
        window: tuple[int, int] | None = None,
    ) -> None:
        chain = build_list(ops, "transform", plugins)
        if "DecodeImage" not in [take_apart(op)[0] for op in ops]:
            chain = [*build_list(["DecodeImage"], "transform"), *chain]
        self.transform = Compose(chain)
        self._shape = image_shape
        self._window = window
        self.normalizer: Normalizer | None = None

    @classmethod
    def of(cls, spec: InferenceSpec) -> Preprocessor:
        """That of an exported folder."""
        views = views_of(spec.tiling, spec.tta)
        window = views.window if views else None
        return cls(spec.transform_ops, spec.image_shape, spec.plugins, window)

    def later(self) -> Preprocessor:
        """This one without its last step, the normalisation, for who normalises part by part.

        What it gives is the whole photograph, (H, W, C) uint8, or (C, H, W) as it is where the last
        step is another one.
        """
        other = copy.copy(self)
        other.transform, other.normalizer = self.transform.split_tail()
        other._shape = other._window = None
        return other

    def __call__(self, image: Image) -> Prepared:
        """One picture: a path, bytes of a file, an (H, W, 3) uint8 RGB array, a Pillow image.

        Raises:
            ImageError: the file cannot be read.
            UserError: no picture, or the network takes another shape.
        """
        is_path = isinstance(image, (str, os.PathLike))
        name = os.fspath(image) if is_path else "the image"
        sample = {"image": name if is_path else image, "path": name, "meta": Meta()}
        sample = self.transform(sample, None)
        array = sample["image"]  # (C, H, W)
        if self._window:
            array = _middle(array, self._window)
        if not accepts(self._shape, array.shape):
            raise UserError(
                f"{name}: pre-processing gives the shape {array.shape}, but the network takes "
                f"{self._shape}; correct transform_ops in {FILE_NAME} "
                "(usually a missing CropImage)"
            )
        return Prepared(array, replace(sample["meta"], seen=array.shape[1:]))


def _middle(array: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """The window (C, *window) in an image's middle, filled up with zeros."""
    starts = [max(0, (edge - size) // 2) for edge, size in zip(array.shape[1:], window)]
    (top, left), (high, wide) = starts, window
    part = array[:, top : top + high, left : left + wide]
    missing = [(0, size - edge) for size, edge in zip(window, part.shape[1:])]
    return np.pad(part, [(0, 0), *missing])


def alike(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images (C, H, W) as one batch takes them: where sizes are free, cut to the smallest."""
    height, width = np.min([array.shape[1:] for array in arrays], axis=0)
    return [array[:, :height, :width] for array in arrays]


def accepts(image_shape: tuple[int, int, int] | None, shape: Sequence[int]) -> bool:
    """Whether a network of `image_shape` (-1: any; `None`: any at all) takes `shape` (C, H, W)."""
    wanted = image_shape or (-1, -1, -1)
    return len(shape) == 3 and all(w in (s, -1) for s, w in zip(shape, wanted))
