"""Engines: what runs an exported network. `make_engine` chooses by name and precision.

| engine | runs | precisions |
|---|---|---|
| paddle | `inference.json`, always installed | fp32, bf16 |
| openvino | `inference.onnx`, `inference_int8.onnx` | fp32, bf16, int8 |
| onnxruntime | the same | fp32, int8 |

No engine is imported before it is wanted, so a server that runs OpenVINO does not load Paddle.
Read next: choice.py (what can be said), and ../auto/choose.py, which measures them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from ppcls_lite.inference.engines.choice import (
    PRECISIONS,
    Device,
    Engine,
    EngineChoice,
    EngineName,
    Precision,
    refusal,
)
from ppcls_lite.inference.engines.files import find_onnx, find_program
from ppcls_lite.inference.engines.installed import missing
from ppcls_lite.system.machine import MAX_DEFAULT_THREADS, default_threads

__all__ = [
    "MAX_DEFAULT_THREADS",
    "PRECISIONS",
    "Device",
    "Engine",
    "EngineChoice",
    "EngineName",
    "Precision",
    "available_engines",
    "available_precisions",
    "default_threads",
    "find_onnx",
    "find_program",
    "make_engine",
]


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
    choice = EngineChoice(engine, precision, threads, device)
    return choice.make(Path(model_dir), warmup_shape)


def available_engines() -> dict[EngineName, str | None]:
    """Each engine with the reason why it cannot be used here, or `None` if it can."""
    return {name: missing(name) for name in PRECISIONS}


def available_precisions(engine: EngineName) -> dict[Precision, str | None]:
    """Each precision with the reason why `engine` cannot compute with it here, or `None`.

    Whether a folder holds the int8 network is another question.
    """
    return {precision: refusal(engine, precision) for precision in get_args(Precision)}
