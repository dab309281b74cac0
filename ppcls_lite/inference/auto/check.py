"""Whether an engine's answers are right, compared with the reference engine's.

fp32 must give the same probabilities within 1e-3 and the same best class. bf16 and int8 round, so
they must agree on the best class wherever the reference is decided, and stay close.
Read next: auto.py, quantize.py.
"""

from __future__ import annotations

import numpy as np

_TOLERANCE = 1e-3  # fp32, relative to the largest output of the image
_TIE = 1e-4  # fp32: two best classes closer than this (relative) may change places
_DECIDED = 0.2  # the best class is ahead of the second by this share of its probability
_DISTANCE = {"bf16": 0.03, "int8": 0.10}  # mean over images of the largest |p - reference|
_AGREEMENT = {"bf16": 1.0, "int8": 0.95}  # on images where the reference is decided
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


def difference(reference: np.ndarray, found: np.ndarray, precision: str, output: str) -> str | None:
    """What is wrong with `found`, or `None`.

    Args:
        reference, found: (images, classes), probabilities or logits as `output` says.
        precision: "fp32", "bf16" or "int8".
    """
    if found.shape != reference.shape:
        return f"gives the shape {found.shape} instead of {reference.shape}"
    if not np.isfinite(found).all():
        return "gives values that are not finite"
    changed = reference.argmax(axis=1) != found.argmax(axis=1)  # (images,)
    if precision == "fp32":
        largest = np.abs(reference).max(axis=1, keepdims=True) + np.finfo(np.float32).tiny
        worst = float((np.abs(found - reference) / largest).max())
        lost = int((changed & (_lead(reference) > _TIE)).sum())
        if worst > _TOLERANCE or lost:
            return f"differs from the reference by {worst:.1e}, best class on {lost} images"
        return None
    if output == "logits":
        reference, found = _softmax(reference), _softmax(found)
    distance = float(np.abs(found - reference).max(axis=1).mean())
    decided = _lead(reference) > _DECIDED
    agreement = float(1 - changed[decided].mean()) if decided.any() else 1.0
    if distance > _DISTANCE[precision] or agreement < _AGREEMENT[precision]:
        return (
            f"too far from fp32: probabilities differ by {distance:.3f} (allowed "
            f"{_DISTANCE[precision]}), best class equal on {agreement:.0%} of the decided images"
        )
    return None


def _lead(outputs: np.ndarray) -> np.ndarray:
    """(images,): how far the best class is ahead of the second, relative to the best."""
    if outputs.shape[1] < 2:
        return np.ones(len(outputs))
    second, first = np.sort(outputs, axis=1)[:, -2:].T
    return (first - second) / (np.abs(first) + np.finfo(np.float32).tiny)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
