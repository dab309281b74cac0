"""The files of an exported folder that an engine runs. Read next: weights_file.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.weights_file import check_weights, paddle_input
from ppcls_lite.inference.onnx.metadata import onnx_input

ONNX_NAMES = {"fp32": "inference.onnx", "int8": "inference_int8.onnx"}
_PROGRAM_SUFFIXES = (".json", ".pdmodel")  # PIR, Paddle 3; the older ProgramDesc


def find_program(model_dir: Path) -> tuple[Path, Path]:
    """The Paddle program and the weights of an exported folder; UserError if one is not whole.

    `inference.json` and `inference.pdmodel` come first; any other name is taken if it is the only
    one of its kind.
    """
    _require_folder(model_dir)
    for suffix in _PROGRAM_SUFFIXES:
        named = model_dir / f"inference{suffix}"
        found = [named] if named.is_file() else sorted(model_dir.glob(f"*{suffix}"))
        found = [program for program in found if program.with_suffix(".pdiparams").is_file()]
        if len(found) > 1:
            names = ", ".join(program.name for program in found)
            raise UserError(f"{model_dir}: holds several programs ({names}); keep one per folder")
        if found:
            weights = found[0].with_suffix(".pdiparams")
            check_weights(found[0], weights)
            return found[0], weights
    hint = ""
    if (model_dir / ONNX_NAMES["fp32"]).is_file():
        hint = "; it holds ONNX: say engine openvino or onnxruntime (--engine)"
    raise UserError(
        f"{model_dir}: expected inference.json (or .pdmodel) and inference.pdiparams beside it, "
        f"found {_held(model_dir)}; ppcls-lite export writes them{hint}"
    )


def find_onnx(model_dir: Path, precision: Literal["fp32", "int8"] = "fp32") -> Path:
    """The ONNX file of an exported folder, or the path itself if it is a file; or UserError."""
    if model_dir.is_file():
        return model_dir
    if model_dir.suffix == ".onnx" and not model_dir.exists():
        raise UserError(f"{model_dir}: no such file (looked for {model_dir.absolute()})")
    _require_folder(model_dir)
    path = model_dir / ONNX_NAMES[precision]
    if path.is_file():
        return path
    writer = "quantize" if precision == "int8" else "export --format onnx (or both)"
    found = f"found {_held(model_dir)}; ppcls-lite {writer} writes it"
    raise UserError(f"{model_dir}: expected {path.name}, {found}")


def input_shape(model: Path, engine: str, precision: str | None) -> tuple[int, int, int] | None:
    """(C, H, W) of the network that an engine would run, -1 for what may vary; `None`: unknown."""
    if engine not in ("paddle", "openvino", "onnxruntime"):  # left to a measurement
        engine = "paddle" if any(model.glob("*.pdiparams")) else "onnxruntime"
    if engine == "paddle":
        shape = paddle_input(find_program(model)[0])
    else:
        shape = onnx_input(find_onnx(model, "int8" if precision == "int8" else "fp32"))
    return (shape[1], shape[2], shape[3]) if shape is not None and len(shape) == 4 else None


def _require_folder(model_dir: Path) -> None:
    if not model_dir.is_dir():
        raise UserError(f"{model_dir}: no such folder; expected one written by ppcls-lite export")


def _held(model_dir: Path) -> str:
    return ", ".join(sorted(path.name for path in model_dir.iterdir())[:8]) or "nothing"
