"""What shape a list of transforms gives to images, found by running it. Read before: compose.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppcls_lite.data.transforms.compose import Compose

_PICTURES = ((700, 900), (1200, 800))  # (H, W): wide and high, so that no edge is alike by chance


def shape_of(ops: Sequence[Any]) -> tuple[int, int, int]:
    """(C, H, W) of the images that `ops` give; -1 where it depends on the image.

    Raises UserError for transforms that do not fit together, or that cannot be run without chance.
    """
    chain = Compose(ops)
    first, second = (
        chain({"image": np.zeros((*size, 3), np.uint8)}, None)["image"].shape for size in _PICTURES
    )
    return tuple(a if a == b else -1 for a, b in zip(first, second))
