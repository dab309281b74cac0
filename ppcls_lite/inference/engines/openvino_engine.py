"""OpenVINO: the ONNX file, compiled for this CPU.

A program is compiled for the shape of the warm-up, because fixed shapes run faster; every other
shape goes through a second program with a free batch and size, compiled when it is first needed.
Properties: https://docs.openvino.ai (CPU device). Read next: ../auto/choose.py.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.system.installed import require

# What is kept of layers at sizes seen before; 5,000 by default, a megabyte for each new size.
_RECORDS = 100
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVINOEngine:
    """Runs an ONNX file; safe from several threads, one run at a time.

    Arguments: `EngineChoice.make`. A file that cannot be loaded is a UserError.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        precision: str = "fp32",
        threads: int = 1,
        warmup_shape: tuple[int, int, int, int] | None = None,
    ) -> None:
        require("openvino")
        import openvino

        self.precision = precision
        self.threads = threads
        self._openvino = openvino
        self._lock = threading.Lock()
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise UserError(f"{path}: OpenVINO cannot load it: {_first_line(error)}") from error
        self._any_shape: Any = None
        self._fixed: Any = None
        self._fixed_shape: tuple[int, ...] = ()
        if warmup_shape is not None:
            model = self._model.clone()
            model.reshape(list(warmup_shape))
            self._fixed = self._compile(model)
            self._fixed_shape = tuple(warmup_shape)
            self.run(np.zeros(warmup_shape, np.float32))

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """One batch (N, C, H, W) to copies of the outputs; UserError for a shape it cannot take."""
        inputs = np.ascontiguousarray(inputs, np.float32)
        with self._lock:
            request = self._request(inputs.shape)
            try:
                request.set_input_tensor(self._openvino.Tensor(inputs, shared_memory=True))
                request.infer()
            except RuntimeError as error:
                raise UserError(
                    f"the network cannot run on an input of shape {inputs.shape}: "
                    f"{_first_line(error)}"
                ) from error
            outputs = [tensor.data.copy() for tensor in request.output_tensors]
        # Where sizes are free, it answers some that the network cannot take with empty arrays. An
        # output may list the objects of all images.
        whole = [output.ndim > 0 and len(output) == len(inputs) for output in outputs]
        if not any(whole) or any(output.ndim == 0 for output in outputs):
            raise UserError(f"the network cannot run on an input of shape {inputs.shape}")
        return outputs

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape == self._fixed_shape:
            return self._fixed
        if self._any_shape is None:
            self._any_shape = self._compile(self._model)
        return self._any_shape

    def _compile(self, model: Any) -> Any:
        """An infer request of the model compiled for this CPU."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "CPU_RUNTIME_CACHE_CAPACITY": _RECORDS,
            "ENABLE_CPU_PINNING": False,  # several processes would share the first cores
        }
        return self._core.compile_model(model, "CPU", settings).create_infer_request()


def _first_line(error: Exception) -> str:
    """The last line of OpenVINO's message says what is wrong; those before, where in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
