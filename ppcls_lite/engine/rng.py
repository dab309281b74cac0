"""The state of every random generator that training draws from, as plain data.

Augmentations do not depend on it: they are seeded by (seed, epoch, index). What is left are
dropout, initial weights and batch operators, which draw from Paddle's, numpy's and Python's
generators. Read next: trainer.py, which saves and restores this state.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import paddle

from ppcls_lite.errors import UserError

_GeneratorState = type(paddle.get_rng_state("cpu")[0])


def random_seed() -> int:
    """A seed that nobody chose."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def seed(value: int, rank: int = 0) -> None:
    """Seed all generators; each rank of a run in several processes draws numbers of its own."""
    if rank:
        value = int(np.random.SeedSequence((value, rank)).generate_state(1)[0])
    paddle.seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


def state() -> dict[str, Any]:
    """The state of all generators: dicts, tuples, numbers, bytes and arrays only."""
    device = paddle.get_device().split(":")[0]
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "paddle": {kind: _plain(kind) for kind in {"cpu", device}},
    }


def restore(saved: dict[str, Any]) -> None:
    """Put all generators back to `saved`, a value of `state()`.

    A state of another kind of device, or of another number of them, cannot be continued exactly
    and raises `UserError`.
    """
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    device = paddle.get_device().split(":")[0]
    for kind in {"cpu", device}:
        found, expected = len(saved["paddle"].get(kind, ())), len(paddle.get_rng_state(kind))
        if found != expected:
            raise UserError(
                f"the checkpoint holds the random state of {found} {kind} devices, this run has "
                f"{expected}. Resume with the same Global.device and the same visible devices, or "
                "start a new run from the weights with -o Global.pretrained_model."
            )
        paddle.set_rng_state([_generator(parts) for parts in saved["paddle"][kind]], kind)


def _plain(kind: str) -> list[tuple[Any, ...]]:
    """Each generator's (device, seed, offset, engine); the engine's text as bytes."""
    states = []
    for generator in paddle.get_rng_state(kind):
        device, start, offset, engine = generator.__getstate__()
        states.append((device, start, offset, bytes(engine)))
    return states


def _generator(parts: tuple[Any, ...]) -> Any:
    device, start, offset, engine = parts
    generator = _GeneratorState.__new__(_GeneratorState)
    generator.__setstate__((device, start, offset, list(engine)))
    return generator
