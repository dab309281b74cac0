"""Frozen teachers run by an inference engine: several times as fast as the network on a CPU.

`DistillationModel.teacher_engine` says which; `auto` leaves short runs to the network, because
making an engine takes seconds. A teacher's program is exported once for each size of
images, with everything that its forward pass gives, features too; the first images of a size are
run by the network as well, and what the two differ by is logged. Too much of it, or a network that
cannot be exported, leaves the network itself with `auto`; where the engine is named it is an error.
Read before: teachers.py. Read next: ../inference/engines/, ../inference/graph_forward.py (the same
for the network that is evaluated).
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.distill.distillation_model import DistillationModel
from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import TOLERANCE, require_close
from ppcls_lite.inference.engines import (
    PRECISIONS,
    Engine,
    EngineName,
    Precision,
    make_engine,
)
from ppcls_lite.inference.graph_forward import WORTH, own_threads
from ppcls_lite.inference.onnx.export import to_onnx
from ppcls_lite.inference.shipped import save_program
from ppcls_lite.system.installed import missing, require
from ppcls_lite.system.machine import usable_cores

logger = logging.getLogger("ppcls_lite")

AUTO: tuple[EngineName, ...] = ("openvino", "onnxruntime", "paddle")  # the fastest first
# What the engine may differ from the network by, relative to the image's largest output.
LIMITS: dict[Precision, float] = {"fp32": TOLERANCE, "bf16": 0.05}
_CHECKED = 8  # images of the first batch that the network computes as well
_FAILURES = (UserError, RuntimeError, ValueError, TypeError, AttributeError, OSError)

Named = EngineName | Literal["auto"]
Outputs = Tensor | Mapping[str, Tensor]


def engine_teachers(
    networks: DistillationModel, frozen: Mapping[str, nn.Layer], images: int
) -> dict[str, EngineTeacher]:
    """Those of the frozen networks that an engine runs, by name: on a CPU, unless they are files.

    images: how many this process shows them in the whole run.

    Raises UserError where the recipe names an engine that is not installed, or on a GPU.
    """
    engine, on_cpu = networks.teacher_engine, paddle.get_device().startswith("cpu")
    if engine == "network" or (engine == "auto" and not on_cpu):
        return {}
    precision = networks.teacher_precision
    own = {name: network for name, network in frozen.items() if not network.from_file}
    return {n: EngineTeacher(n, net, engine, precision, images) for n, net in own.items()}


class EngineTeacher:
    """Runs a frozen network by an engine: images (N, C, H, W) to what the network gives.

    Args:
        name: what the recipe calls the teacher.
        network: in evaluation mode; it is not changed.
        engine, precision: as the recipe says, see `DistillationModel`.
        images: with `auto`, fewer than are worth an engine are left to the network.

    Raises UserError where a named engine is not installed, or is asked for on a GPU.
    """

    def __init__(
        self, name: str, network: nn.Layer, engine: Named, precision: Precision, images: int
    ) -> None:
        self.name, self.network, self.precision, self.images = name, network, precision, images
        self.required = engine != "auto" or precision != "fp32"
        self.engine = _engine_for(engine, precision)
        self._sizes: dict[tuple[int, ...], Callable[[Tensor], Outputs]] = {}  # by (C, H, W)

    def __call__(self, images: Tensor) -> Outputs:
        size = tuple(images.shape[1:])
        if size not in self._sizes:
            self._sizes[size] = self._made(images, size)
        return self._sizes[size](images)

    def _made(self, images: Tensor, size: tuple[int, ...]) -> Callable[[Tensor], Outputs]:
        """What runs images of this size: the engine if it pays and agrees with the network."""
        if not self.required and self.images * size[-2] * size[-1] < WORTH:
            return self.network
        label = f"{self.engine} {self.precision}"
        few = images[:_CHECKED]
        expected = self.network(few)
        try:
            run = _Run(
                _exported(self.network, expected, size, self.engine, self.precision), expected
            )
            limit = LIMITS[self.precision]
            difference = require_close(_arrays(expected), _arrays(run(few)), limit)
        except _FAILURES as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if self.required:
                raise UserError(
                    f"Arch.teacher_engine: {self.name} cannot be run by {label}: {reason}; "
                    "teacher_engine: network runs it as it is"
                ) from error
            logger.info(f"teacher {self.name}: run by the network itself, not {label}: {reason}")
            return self.network
        logger.info(
            f"teacher {self.name}: run by {label} with {usable_cores()} threads; on {len(few)} "
            f"images it differs from the network by {difference:.1e} of the largest output "
            f"(allowed {LIMITS[self.precision]:g})"
        )
        return run


class _Run:
    """Batches through an engine, in the form of `like`: a tensor, or one for each name."""

    def __init__(self, engine: Engine, like: Outputs) -> None:
        self._engine = engine
        self._names = list(like) if isinstance(like, Mapping) else None

    def __call__(self, images: Tensor) -> Outputs:
        with own_threads():
            outputs = [paddle.to_tensor(o) for o in self._engine.run(images.numpy())]
        return outputs[0] if self._names is None else dict(zip(self._names, outputs, strict=True))


class _Whole(nn.Layer):
    """All that a network's forward pass gives, as a list."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        outputs = self.network(image)
        return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def _engine_for(wanted: Named, precision: Precision) -> EngineName:
    """The engine that is meant; UserError if it is named and not here."""
    if wanted == "auto":
        able = (name for name in AUTO if precision in PRECISIONS[name])
        return next(n for n in able if all(missing(package) is None for package in _packages(n)))
    if not paddle.get_device().startswith("cpu"):
        raise UserError(
            f"Arch.teacher_engine: {wanted} is for a CPU, but this run uses "
            f"{paddle.get_device()}; use auto or network"
        )
    for package in _packages(wanted):
        require(package)
    return wanted


def _packages(engine: EngineName) -> tuple[str, ...]:
    """What has to be installed: two engines read ONNX, which has to be written first."""
    return () if engine == "paddle" else (engine, "onnx")


def _exported(
    network: nn.Layer,
    like: Outputs,
    size: tuple[int, ...],
    engine: EngineName,
    precision: Precision,
) -> Engine:
    """The network's program for images of `size` (C, H, W) and any number, in an engine.

    No batch size is preferred: that of the first batch after a resume may be another one, and the
    numbers must not depend on it.
    """
    # Names count up in the process; a guard leaves those of later layers as they would be.
    with paddle.utils.unique_name.guard(), tempfile.TemporaryDirectory() as folder:
        if not isinstance(like, Mapping):  # a copy would forget to return features
            network = copy.deepcopy(network)
            network.reparameterize()
        whole = _Whole(network)
        whole.eval()
        save_program(whole, Path(folder), size)
        source = Path(folder)
        if engine != "paddle":
            source = source / "teacher.onnx"
            source.write_bytes(to_onnx(Path(folder)).SerializeToString())
        return make_engine(source, engine, precision, usable_cores())


def _arrays(outputs: Any) -> dict[str, np.ndarray]:
    named = outputs if isinstance(outputs, Mapping) else {"logits": outputs}
    return {name: tensor.numpy() for name, tensor in named.items()}
