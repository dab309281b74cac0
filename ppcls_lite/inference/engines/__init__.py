"""Engines: what runs an exported network. `make_engine` chooses by name and precision.

| engine | runs | precisions |
|---|---|---|
| paddle | `inference.json`, always installed | fp32, bf16 |
| openvino | `inference.onnx`, `inference_int8.onnx` | fp32, bf16, int8 |
| onnxruntime | the same | fp32, int8 |

No engine is imported before it is wanted, so a server that runs OpenVINO does not load Paddle.
Read next: paddle_engine.py, openvino_engine.py, onnxruntime_engine.py, and auto.py in the folder
above, which measures them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.files import find_onnx, find_program
from ppcls_lite.inference.engines.installed import missing
from ppcls_lite.system.machine import MAX_DEFAULT_THREADS, cpu_runs_bf16, default_threads

Device = Literal["cpu", "gpu"]
EngineName = Literal["paddle", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "paddle": ("fp32", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
}
__all__ = [
    "MAX_DEFAULT_THREADS",
    "PRECISIONS",
    "Device",
    "Engine",
    "EngineName",
    "Precision",
    "available_engines",
    "available_precisions",
    "default_threads",
    "find_onnx",
    "find_program",
    "make_engine",
]


class Engine(Protocol):
    """What the predictor needs of anything that runs a network.

    Engines of `make_engine` also have `name`, `precision`, `threads` and `device`.
    """

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to the network's outputs; the first is (N, classes)."""


def __getattr__(name: str) -> Any:
    if name == "PaddleEngine":  # a second of import that the other engines do not need
        from ppcls_lite.inference.engines.paddle_engine import PaddleEngine

        return PaddleEngine
    raise AttributeError(f"module {__name__} has no attribute {name}")


def make_engine(
    model_dir: str | Path,
    engine: EngineName = "paddle",
    precision: Precision = "fp32",
    threads: int | None = None,
    device: Device = "cpu",
    warmup_shape: tuple[int, int, int, int] | None = None,
) -> Engine:
    """An engine that runs the network in `model_dir`; safe to call from several threads.

    Args:
        model_dir: the folder that `deploy/export.py` wrote; for openvino and onnxruntime also an
            ONNX file.
        engine: "paddle", "openvino" or "onnxruntime".
        precision: "fp32"; "bf16" where the CPU computes with it; "int8" of a folder that
            `deploy/quantize.py` has been run on.
        threads: of one run on a CPU; `None`: the usable cores, at most 4.
        device: "gpu" is for paddle alone.
        warmup_shape: (N, C, H, W) of a first run with zeros, so that no request pays for it.

    Raises:
        UserError: the engine is not installed, cannot do this here, or a file is missing.
    """
    if engine not in PRECISIONS:
        raise UserError(f"engine: expected {', '.join(PRECISIONS)} or auto, found {engine!r}")
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise UserError(f"precision: expected one of {known}, found {precision!r}")
    reason = _refusal(engine, precision)
    if reason is not None:
        raise UserError(f"engine {engine} with precision {precision}: {reason}")
    if device not in get_args(Device):
        raise UserError(f"device: expected cpu or gpu, found {device!r}")
    if device != "cpu" and (engine != "paddle" or precision != "fp32"):
        raise UserError(f"device {device}: only engine paddle with fp32, not {engine} {precision}")
    threads = default_threads() if threads is None else threads
    if type(threads) is not int or threads < 1:
        raise UserError(f"threads: expected a whole number from 1 on, found {threads!r}")
    if engine == "paddle":
        from ppcls_lite.inference.engines.paddle_engine import PaddleEngine

        return PaddleEngine(
            model_dir, device, threads=threads, warmup_shape=warmup_shape, precision=precision
        )
    file = find_onnx(Path(model_dir), "int8" if precision == "int8" else "fp32")
    if engine == "openvino":
        from ppcls_lite.inference.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(file, precision, threads, warmup_shape)
    from ppcls_lite.inference.engines.onnxruntime_engine import ONNXRuntimeEngine

    return ONNXRuntimeEngine(file, precision, threads, warmup_shape)


def available_engines() -> dict[EngineName, str | None]:
    """Each engine with the reason why it cannot be used here, or `None` if it can."""
    return {name: missing(name) for name in PRECISIONS}


def available_precisions(engine: EngineName) -> dict[Precision, str | None]:
    """Each precision with the reason why `engine` cannot compute with it here, or `None`.

    Whether a folder holds the int8 network is another question.
    """
    return {precision: _refusal(engine, precision) for precision in get_args(Precision)}


def _refusal(engine: EngineName, precision: Precision) -> str | None:
    reason = missing(engine)
    if reason is not None:
        return reason
    if precision not in PRECISIONS[engine]:
        others = [name for name, known in PRECISIONS.items() if precision in known]
        return (
            f"{engine} has {', '.join(PRECISIONS[engine])}; {precision} is of {', '.join(others)}"
        )
    if precision == "bf16" and not cpu_runs_bf16():
        return "this CPU does not compute with bf16 (its flags lack avx512_bf16 and amx_bf16)"
    return None
