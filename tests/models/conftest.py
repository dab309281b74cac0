"""The filling formula of the golden values, shared by the tests of this folder."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest


def filled(state: Mapping[str, Sequence[int]], gain: float = 2.0) -> dict[str, np.ndarray]:
    """Deterministic values for state-dict keys and shapes, as tests/fixtures were made with."""
    return {key: _value(key, tuple(shape), gain) for key, shape in state.items()}


def _value(key: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    noise = random.standard_normal(shape).astype("float32")
    if key.endswith("_variance"):
        return 1 + 0.1 * np.abs(noise)
    if key.endswith("_mean"):
        return 0.1 * noise
    if len(shape) == 1:
        return 0.1 * noise + (1 if key.endswith((".weight", ".scale")) else 0)
    fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
    return (noise * np.sqrt(gain / fan_in)).astype("float32")


@pytest.fixture(scope="session")
def fill() -> Callable[..., dict[str, np.ndarray]]:
    return filled
