"""Compose: a chain of transforms over one sample, with the last steps left to the batch.

Read next: batch_transforms.py, loader.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.geometry import Rng, Sample
from ppcls_lite.data.transforms.normalize import NormalizeImage, Normalizer, ToCHWImage
from ppcls_lite.errors import ImageError, UserError

_PICTURES = ((700, 900), (1200, 800))  # (H, W): wide and high, so that no edge is alike by chance


class Compose:
    """Runs `ops` in order on a sample; the result's image is (C, H, W) and contiguous.

    `to_chw` false leaves the image (H, W, C), as the first part of `split_tail` does. A sample's
    `size` (height, width), set by multi-scale samplers, is removed at the end. Raises UserError
    where an op that needs (H, W, C) stands after the change to (C, H, W), or the reverse. What goes
    wrong with one image is an ImageError that names it: such images can be left out.
    """

    def __init__(self, ops: Sequence[Any] | None, to_chw: bool = True) -> None:
        self.ops = list(ops or ())
        chw = self._check_layout()
        tail = self._tail() if to_chw else 0
        self._head = self.ops[: len(self.ops) - tail]
        self._normalizer: Normalizer | None = None
        if tail:
            norm = next(op for op in self.ops[-tail:] if isinstance(op, NormalizeImage))
            self._normalizer = norm.normalizer
        elif to_chw and not chw:
            self._head.append(ToCHWImage())
        self._decodes = any(isinstance(op, DecodeImage) for op in self.ops)
        for op, following in zip(self.ops, [*self.ops[1:], None]):
            if isinstance(op, DecodeImage):
                op.before(following)

    def __call__(self, sample: Sample, rng: Rng = None) -> Sample:
        if not self._decodes and isinstance(sample["image"], (str, bytes, os.PathLike)):
            raise UserError("transform_ops: DecodeImage is missing; put it first")
        image = sample["image"]
        name = sample.get("path", image if isinstance(image, (str, os.PathLike)) else "the image")
        for op in self._head:
            try:
                sample = op(sample, rng)
            except (ImageError, MemoryError, cv2.error) as error:
                raise _of_image(error, op, str(name)) from error
        if self._normalizer is not None:
            sample["image"] = self._normalizer.normalize_image(sample["image"])  # (C, H, W)
        sample.pop("size", None)
        return sample

    def split_tail(self) -> tuple[Compose, Normalizer | None]:
        """The chain as two parts: per sample, and the normalisation of a whole batch.

        The first part gives (H, W, C) images; stacked, the normalizer turns them into exactly what
        this chain gives. A chain that does not end in NormalizeImage is returned whole, with
        `None`.
        """
        if self._normalizer is None:
            return self, None
        return Compose(self._head, to_chw=False), self._normalizer

    def _check_layout(self) -> bool:
        """Whether the chain itself ends in (C, H, W)."""
        chw = False
        for position, op in enumerate(self.ops):
            where = f"transform_ops.{position}.{type(op).__name__}"
            if isinstance(op, NormalizeImage):
                if (op.order == "chw") != chw:
                    got, other = ("'chw'", "''") if op.order == "chw" else (repr(op.order), "'chw'")
                    raise UserError(
                        f"{where}: order is {got} but the image is "
                        f"{'(C, H, W)' if chw else '(H, W, C)'} here; write order: {other}"
                        + ("" if chw else " or put ToCHWImage before it")
                    )
            elif chw:
                raise UserError(f"{where}: needs (H, W, C); put it before ToCHWImage")
            chw = chw or isinstance(op, ToCHWImage) or getattr(op, "channel_first", False)
        return chw

    def _tail(self) -> int:
        """How many ops at the end a `Normalizer` replaces: NormalizeImage, with ToCHWImage."""
        before, last = list(self.ops), []
        while before and isinstance(before[-1], (NormalizeImage, ToCHWImage)):
            last.append(before.pop())
        norms = [op for op in last if isinstance(op, NormalizeImage)]
        starts_chw = any(getattr(op, "channel_first", False) for op in before)
        return len(last) if len(norms) == 1 and norms[0].can_wait and not starts_chw else 0


def _of_image(error: Exception, op: Any, name: str) -> ImageError:
    """What went wrong with one image, told so that its name and the step are known."""
    match error:
        case ImageError():
            reason = str(error).removeprefix(f"{name}: ")
        case MemoryError():
            reason = f"{type(op).__name__}: there is not enough memory for it"
        case _:
            reason = f"{type(op).__name__}: OpenCV refuses it: {error}"
    return ImageError(f"{name}: {reason}")


def channels_of(ops: Sequence[Any]) -> int:
    """How many channels the arrays have that a chain may begin with."""
    return getattr(ops[0], "channels", 3) if ops else 3


def shape_of(ops: Sequence[Any]) -> tuple[int, int, int]:
    """(C, H, W) of the images that `ops` give, found by running them; -1: the image decides.

    UserError for transforms that do not fit together, or that cannot be run without chance.
    """
    chain = Compose(ops)
    channels = channels_of(ops)
    samples = ({"image": np.zeros((*size, channels), np.uint8)} for size in _PICTURES)
    first, second = (chain(sample)["image"].shape for sample in samples)
    return tuple(a if a == b else -1 for a, b in zip(first, second))
