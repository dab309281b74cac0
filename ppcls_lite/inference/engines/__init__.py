"""Engines: what runs an exported network, and which one a user may ask for.

| engine | runs | precisions |
|---|---|---|
| paddle | `inference.json`, always installed | fp32, bf16 |
| openvino | `inference.onnx`, `inference_int8.onnx` | fp32, bf16, int8 |
| onnxruntime | the same | fp32, int8 |

What fits together is checked in `EngineChoice` alone. No engine is imported before it is wanted, so
a server that runs OpenVINO does not load Paddle. Read next: paddle_engine.py, openvino_engine.py,
onnxruntime_engine.py, and ../auto/choose.py, which measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.files import find_onnx
from ppcls_lite.inference.onnx.metadata import is_quantised
from ppcls_lite.system.installed import missing
from ppcls_lite.system.machine import cpu_runs_bf16, default_threads, usable_cores

Device = Literal["cpu", "gpu"]
EngineName = Literal["paddle", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16", "int8"]
AutoName = Literal["auto", "auto-p99"]  # measured: the median alone, 99 % under load
AUTO: tuple[AutoName, ...] = get_args(AutoName)
PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "paddle": ("fp32", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
}
MAX_THREADS = 4 * max(64, usable_cores())


class Engine(Protocol):
    """What the predictor needs of anything that runs a network.

    Engines of `make_engine` also have `name`, `precision`, `threads` and `device`.
    """

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to the network's outputs, (N, ...) each."""


@dataclass(frozen=True)
class EngineChoice:
    """What a user may say about how a network runs.

    Attributes:
        engine: "paddle", "openvino" or "onnxruntime"; one of AUTO is left to auto/choose.py.
        precision: "fp32"; "bf16" where the CPU computes with it; "int8" of a folder that
            `ppcls-lite quantize` has been run on; `None`: fp32 (of an ONNX file, what it is),
            and with one of AUTO what is fastest.
        threads: of one run on a CPU; `None`: the usable cores, at most 4.
        device: "gpu" is for paddle with fp32 alone.
        mkldnn: `False` is paddle with fp32 without oneDNN, to compare.

    Raises:
        UserError: the engine is not installed or cannot do this here, or two do not fit together.
    """

    engine: EngineName | AutoName = "paddle"
    precision: Precision | None = None
    threads: int | None = None
    device: Device = "cpu"
    mkldnn: bool = True

    def __post_init__(self) -> None:
        name, precision = self.engine, self.precision or "fp32"
        if not self.mkldnn and (name, precision) != ("paddle", "fp32"):
            raise UserError("mkldnn=False (--no-mkldnn) is for engine paddle with fp32 only")
        if name not in (*PRECISIONS, *AUTO):
            known = ", ".join((*PRECISIONS, *AUTO))
            raise UserError(f"engine: expected one of {known}, found {name!r}")
        if precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise UserError(f"precision: expected one of {known}, found {precision!r}")
        reason = None if name in AUTO else _refusal(name, precision)
        if reason is not None:
            raise UserError(f"engine {name} with precision {precision}: {reason}")
        if self.device not in get_args(Device):
            raise UserError(f"device: expected cpu or gpu, found {self.device!r}")
        if self.device != "cpu" and name not in AUTO and (name, precision) != ("paddle", "fp32"):
            raise UserError(
                f"device {self.device}: only engine paddle with fp32, not {name} {precision}"
            )
        if self.threads is not None and (
            type(self.threads) is not int or not 1 <= self.threads <= MAX_THREADS
        ):
            raise UserError(
                f"threads: expected a whole number from 1 to {MAX_THREADS}, found {self.threads!r}"
            )

    def make(self, model: Path, warmup_shape: tuple[int, int, int, int] | None = None) -> Engine:
        """The engine for an exported folder or an ONNX file; UserError if it is damaged.

        `warmup_shape` (N, C, H, W) is that of a first run with zeros, so that no request pays
        for it.
        """
        if self.engine in AUTO:
            raise UserError(f"engine: expected {', '.join(PRECISIONS)}; only a Predictor measures")
        threads = default_threads() if self.threads is None else self.threads
        if self.engine == "paddle":
            from ppcls_lite.inference.engines.paddle_engine import PaddleEngine

            precision = self.precision or "fp32"
            return PaddleEngine(model, self.device, self.mkldnn, threads, warmup_shape, precision)
        file = find_onnx(model, "int8" if self.precision == "int8" else "fp32")
        precision = _precision_of(file, self.precision)
        if self.engine == "openvino":
            from ppcls_lite.inference.engines.openvino_engine import OpenVINOEngine

            return OpenVINOEngine(file, precision, threads, warmup_shape)
        from ppcls_lite.inference.engines.onnxruntime_engine import ONNXRuntimeEngine

        return ONNXRuntimeEngine(file, precision, threads, warmup_shape)


def make_engine(
    model_dir: str | Path,
    engine: EngineName = "paddle",
    precision: Precision | None = None,
    threads: int | None = None,
    device: Device = "cpu",
    warmup_shape: tuple[int, int, int, int] | None = None,
) -> Engine:
    """`EngineChoice(...).make(...)`: an engine that several threads may use."""
    return EngineChoice(engine, precision, threads, device).make(Path(model_dir), warmup_shape)


def _precision_of(file: Path, wanted: Precision | None) -> Precision:
    """What an ONNX file is computed with: int8 if it is quantised, whatever it is called."""
    quantised = is_quantised(file)
    if wanted is None:
        return "int8" if quantised else "fp32"
    if quantised != (wanted == "int8"):
        found = "is quantised, int8" if quantised else "is not quantised"
        remedy = "leave the precision out" if quantised else "ppcls-lite quantize makes it int8"
        raise UserError(f"precision {wanted}: {file} {found}; {remedy}")
    return wanted


def available_engines() -> dict[EngineName, str | None]:
    """Each engine with the reason why it cannot be used here, or `None` if it can."""
    return {name: missing(name) for name in PRECISIONS}


def available_precisions(engine: EngineName) -> dict[Precision, str | None]:
    """Each precision with the reason why `engine` cannot compute with it here, or `None`."""
    return {precision: _refusal(engine, precision) for precision in get_args(Precision)}


def _refusal(engine: EngineName, precision: Precision) -> str | None:
    """Why `engine` cannot compute with `precision` here, or `None` if it can."""
    reason = missing(engine)
    if reason is not None:
        return reason
    if precision not in PRECISIONS[engine]:
        others = [name for name, known in PRECISIONS.items() if precision in known]
        mine = ", ".join(PRECISIONS[engine])
        return f"{engine} has {mine}; {precision} is of {', '.join(others)}"
    if precision == "bf16" and not cpu_runs_bf16():
        return "this CPU does not compute with bf16 (its flags lack avx512_bf16 and amx_bf16)"
    return None
