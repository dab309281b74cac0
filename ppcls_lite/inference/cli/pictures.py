"""Answers as pictures: drawn on their photographs, or as PNG files of their own.

What a picture shows is the post-processing's; a picture has its photograph's name and folders.
Read next: predict.py, ../postprocess/base.py (`draw`, `png`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.output_names import OutputNames
from ppcls_lite.system.files import write_bytes

if TYPE_CHECKING:
    from ppcls_lite.inference.postprocess.base import Postprocess, Result

_QUALITY = 92  # of JPEG


class Pictures:
    """Writes what `predict` is asked to show: `drawn` and `own` are folders, or None.

    images: all that will be predicted; their folder in common is left out of the pictures' names.
    Raises UserError where a picture would take the place of an image.
    """

    def __init__(
        self, postprocess: Postprocess, drawn: Path | None, own: Path | None, images: Sequence[Path]
    ) -> None:
        self._postprocess, self._drawn, self._own = postprocess, drawn, own
        self._names = OutputNames(images)
        for folder in filter(None, (drawn, own)):
            self._names.require_other(folder)
        if own and not postprocess.makes_png:
            kind = type(postprocess).__name__
            raise UserError(f"--save-png: the answers of {kind} are no pictures; use --draw")

    def write(self, result: Result) -> None:
        """The pictures of one result; of an image without an answer there are none."""
        if "error" in result or not (self._drawn or self._own):
            return
        stem = self._names.stem(result["file"])
        if self._drawn:
            image = decode_rgb(read_file(result["file"]), result["file"])
            picture = self._postprocess.draw(image, result)
            _save(self._drawn / f"{stem}.jpg", _encoded(picture, stem))
        if self._own:
            _save(self._own / f"{stem}.png", self._postprocess.png(result))


def _encoded(picture: np.ndarray, name: Path) -> bytes:
    """(H, W, 3) RGB as a JPEG."""
    written, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not written:
        raise ImageError(f"{name}: a picture of {picture.shape[1]} x {picture.shape[0]} pixels")
    return data.tobytes()


def _save(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
