"""What the files of an image's answer are called: as the image, below another folder.

Read next: cli/pictures.py, postprocess/detection_files.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.errors import UserError


class OutputNames:
    """Names for the answers of `images`, whose folder in common is left out of them."""

    def __init__(self, images: Sequence[str | Path]) -> None:
        folders = {os.path.dirname(os.path.abspath(image)) for image in images}  # noqa: PTH100, PTH120
        self._root = Path(os.path.commonpath(folders)) if folders else Path()
        self._stems = Counter(self.name(image).with_suffix("") for image in images)

    def require_other(self, folder: Path) -> None:
        """UserError if answers in that folder would lie beside the images."""
        if folder.resolve() == self._root.resolve():
            raise UserError(f"{folder}: holds the images to predict; name another folder")

    def name(self, image: str | Path) -> Path:
        """An image's folders and name below the folder in common."""
        return Path(os.path.relpath(os.path.abspath(image), self._root))  # noqa: PTH100

    def stem(self, image: str | Path) -> Path:
        """The same without the suffix, unless another image would be called so: a.jpg, a.png."""
        name = self.name(image)
        stem = name.with_suffix("")
        return name if self._stems[stem] > 1 else stem
