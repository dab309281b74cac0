"""Whether an engine's answers are right, compared with the reference engine's.

What may differ stands in ../agreement.py. Read next: choose.py.
"""

from __future__ import annotations

import numpy as np

from ppcls_lite.inference.agreement import mismatch
from ppcls_lite.inference.postprocess.base import Postprocess
from ppcls_lite.inference.spec import OutputKind, Outputs

_COUNT = 16


def pictures(shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Network inputs to compare on, each of `shape`: tiles of several sizes and noise."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(_COUNT):
        edge = 2 ** (index % 5)  # 1 is noise
        _, channels, height, width = shape
        grid = (shape[0], channels, -(-height // edge), -(-width // edge))
        tiles = rng.uniform(-2, 2, grid).astype(np.float32)
        large = tiles.repeat(edge, axis=2).repeat(edge, axis=3)
        made.append(np.ascontiguousarray(large[:, :, :height, :width]))  # (N, C, H, W)
    return made


def refusal(
    answers: Postprocess, reference: Outputs, found: Outputs, precision: str, kind: OutputKind
) -> str | None:
    """What is wrong with the outputs `found` by an engine of `precision`, or `None`."""
    problem = mismatch(reference, found)
    if problem is not None:
        return f"gives {problem}"
    return answers.agreement(reference, found, kind).computed(precision)
