"""ONNX Runtime on the CPU. Read next: openvino_engine.py, which runs the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.system.installed import require


class ONNXRuntimeEngine:
    """Runs an ONNX file; several threads may run at a time. Arguments: `EngineChoice.make`.

    `shape` is that of the input, (N, C, H, W), with None for what may vary. A file that has other
    inputs than one of four dimensions, or cannot be loaded, is a UserError.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        precision: str = "fp32",
        threads: int = 1,
        warmup_shape: tuple[int, int, int, int] | None = None,
    ) -> None:
        require("onnxruntime")
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        self.precision = precision
        self.threads = threads
        self._refusals = (errors.InvalidArgument, errors.Fail, errors.RuntimeException)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except (*self._refusals, errors.InvalidProtobuf, errors.InvalidGraph) as error:
            raise UserError(f"{path}: ONNX Runtime cannot load it: {_line(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            found = ", ".join(f"{item.name} {item.shape}" for item in inputs)
            raise UserError(f"{path}: expected one input (N, C, H, W), the file has {found}")
        self._input = inputs[0].name
        self.shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
        if warmup_shape is not None:
            self.run(np.zeros(warmup_shape, np.float32))

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """One batch (N, C, H, W) to the outputs; UserError for a shape that it does not take."""
        inputs = np.ascontiguousarray(inputs, np.float32)
        try:
            return self._session.run(None, {self._input: inputs})
        except self._refusals as error:
            raise UserError(
                f"the network cannot run on an input of shape {inputs.shape}: {_line(error)}"
            ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
