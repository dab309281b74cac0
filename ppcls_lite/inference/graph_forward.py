"""Evaluation by the exported graph: the network's present weights, run by Paddle Inference.

On a CPU the graph with oneDNN is several times faster than the network itself. The program is
exported once per run; each evaluation makes a new predictor of it with the weights as they are
now, because a predictor folds them into its convolutions. What this costs and from when on it
pays: docs/performance.md, "Evaluation". A training must not notice it: nothing draws random
numbers, and what the engine sets in the process is put back. Where the graph cannot be made, or
gives other results on the first images, the network itself goes on, and the log says why.
Of a network with several outputs there are those that ship.
Read before: export.py, agreement.py, ../engine/evaluate.py.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import require_close
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.shipped import STEM, Shipped, save_program
from ppcls_lite.inference.spec import LOGITS
from ppcls_lite.system.machine import usable_cores

logger = logging.getLogger("ppcls_lite")

Run = Callable[[Tensor], Any]  # images (N, C, H, W) to the network's output
WORTH = 10_000_000  # pixels of an evaluation where a predictor pays: 200 of 224x224
_CHECKED = 2  # images of the first batch that the network computes as well
_FAILURES = (UserError, RuntimeError, ValueError, TypeError, AttributeError, OSError)


@dataclass(frozen=True)
class _Program:
    """An exported graph, and the names in it of those of the network's weights that it reads."""

    text: bytes
    names: dict[str, str]
    shape: tuple[int, ...]  # (C, H, W)


class GraphForward:
    """Gives an evaluation the fastest way to run a network: `with forward(...) as run`.

    `mode` "auto" uses the graph from `WORTH` pixels on, "inference" always; `threads` are those of
    one run, `None`: the cores that this process may use.
    """

    def __init__(
        self, mode: Literal["auto", "inference"] = "auto", threads: int | None = None
    ) -> None:
        self.mode, self.threads = mode, threads
        self.failed: str | None = None  # why the network itself is used for good
        self.used = 0  # evaluations that the graph has run
        self._program: _Program | None = None

    @contextlib.contextmanager
    def __call__(self, model: nn.Layer, images: Tensor, batches: int) -> Iterator[Run]:
        """The forward pass for an evaluation of `batches` batches like `images` (N, C, H, W).

        Either the graph with the weights that `model` has now, or `model` itself.
        """
        pixels = batches * images.shape[0] * images.shape[2] * images.shape[3]
        small = self.mode == "auto" and pixels < WORTH
        if self.failed or small or not paddle.get_device().startswith("cpu"):
            yield model
            return
        with own_threads():
            yield self._made(model, images) or model

    def _made(self, model: nn.Layer, images: Tensor) -> Run | None:
        """The graph's forward pass, if it can be made and agrees with the network's."""
        try:
            weights = _weights(model)
            shape = tuple(images.shape[1:])
            if self._program is None or self._program.shape != shape:
                self._program = _export(model, shape)
            engine = _engine(self._program, weights, self.threads or usable_cores())
            run = _Graph(engine, model, tuple(images.shape), self._give_up)
            _require_equal(run(images[:_CHECKED]), model(images[:_CHECKED]))
        except _FAILURES as error:
            self._give_up(error)
            return None
        self.used += 1
        return run

    def _give_up(self, error: Exception) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self.failed = lines[0]
        logger.info(f"evaluating with the network itself, not its graph: {self.failed}")


class _Graph:
    """Runs batches by the engine; smaller ones are filled up, others go to the network."""

    def __init__(
        self,
        engine: PaddleEngine,
        model: nn.Layer,
        shape: tuple[int, ...],
        give_up: Callable[[Exception], None],
    ) -> None:
        self.engine: PaddleEngine | None = engine
        self.model, self.shape, self.give_up = model, shape, give_up  # shape: (N, C, H, W)

    def __call__(self, images: Tensor) -> Any:
        count = images.shape[0]
        if self.engine is None or tuple(images.shape[1:]) != self.shape[1:]:
            return self.model(images)
        array = images.numpy()
        if count < self.shape[0]:  # another batch size would cost as much as a whole batch or two
            full = np.zeros(self.shape, np.float32)
            full[:count] = array
            array = full  # (N, C, H, W)
        try:
            outputs = [paddle.to_tensor(output[:count]) for output in self.engine.run(array)]
        except UserError as error:
            self.engine = None
            self.give_up(error)
            return self.model(images)
        names = getattr(self.model, "outputs", LOGITS)
        return outputs[0] if names == LOGITS else dict(zip(names, outputs))


def _weights(model: nn.Layer) -> dict[str, Tensor]:
    weights = model.state_dict()
    for name, tensor in weights.items():
        if tensor.dtype != paddle.float32:
            raise UserError(f"{name} is {str(tensor.dtype).removeprefix('paddle.')}, not float32")
        if not np.isfinite(tensor.numpy()).all():
            raise UserError(f"{name} has values that are not finite")
    return weights


def _export(model: nn.Layer, shape: tuple[int, ...]) -> _Program:
    """The graph of `model`, which is not changed, for images of `shape` (C, H, W)."""
    # Names count up in the process; a guard leaves those of later layers as they would be.
    with paddle.utils.unique_name.guard(), tempfile.TemporaryDirectory() as folder:
        shipped = Shipped(copy.deepcopy(model))
        shipped.eval()
        save_program(shipped, Path(folder), shape)
        text = Path(folder, f"{STEM}.json").read_bytes()
        tensors = shipped.model.state_dict()
        # Not all of them: branches that are merged at the export have a place that is empty before
        names = {k: t.name for k, t in tensors.items() if f'"{t.name}"'.encode() in text}
        written = Path(folder, f"{STEM}.pdiparams")
        exported = written.read_bytes()
        _write_weights(written, {names[key]: tensors[key] for key in names})
        if written.read_bytes() != exported:
            raise UserError("its graph does not hold exactly the network's weights")
    return _Program(text, names, shape)


def _engine(program: _Program, weights: dict[str, Tensor], threads: int) -> PaddleEngine:
    """A predictor of `program` with `weights`; it keeps no file."""
    by_name = {name: weights[key] for key, name in program.names.items()}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{STEM}.json").write_bytes(program.text)
        _write_weights(Path(folder, f"{STEM}.pdiparams"), by_name)
        return PaddleEngine(folder, threads=threads)


def _write_weights(path: Path, by_name: dict[str, Tensor]) -> None:
    names = sorted(by_name)  # the order in which a program reads them
    tensors = [by_name[name].get_tensor() for name in names]
    options = (True, False, False)  # overwrite, as float16, to memory
    paddle.base.core.save_combine_func(tensors, names, str(path), *options)


def _require_equal(found: Any, expected: Any) -> None:
    if not isinstance(found, Mapping):
        if not isinstance(expected, Tensor):
            raise UserError(f"the network gives {type(expected).__name__}, not one tensor")
        found, expected = {LOGITS[0]: found}, {LOGITS[0]: expected}
    elif not isinstance(expected, Mapping) or not found.keys() <= expected.keys():
        raise UserError(f"the network does not give {', '.join(found)} as it ships them")
    reference, outputs = (
        {name: part[name].numpy() for name in found} for part in (expected, found)
    )
    require_close(reference, outputs)


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """Put the math libraries' thread numbers back: a predictor leaves them at 1 after each run."""
    libraries = Path(paddle.__file__).parent / "libs"
    counts: list[tuple[Callable[[int], None], int]] = []
    for file, get, put in (
        ("libiomp5.so", "omp_get_max_threads", "omp_set_num_threads"),
        ("libmklml_intel.so", "MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ):
        if (libraries / file).exists():  # loaded already, this finds it
            library = ctypes.CDLL(str(libraries / file))
            counts.append((getattr(library, put), getattr(library, get)()))
    try:
        yield
    finally:
        if not counts:  # another build of Paddle: what it reads at its start
            paddle.base.core.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
        for put_back, count in counts:
            put_back(count)
