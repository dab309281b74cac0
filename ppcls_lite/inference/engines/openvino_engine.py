"""OpenVINO: the ONNX file, compiled for this CPU.

A program is compiled for the shape of the warm-up, because fixed shapes run faster; every other
shape goes through a second program with a free batch and size, compiled when it is first needed.
The first one is kept for the next start (compiled_cache.py), which then does not read the file's
network at all. Properties: https://docs.openvino.ai (CPU device). Read next: ../auto/choose.py.
"""

from __future__ import annotations

import functools
import importlib
import io
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.compiled_cache import CompiledCache
from ppcls_lite.system.installed import require

# What is kept of layers at sizes seen before; 5,000 by default, a megabyte for each new size.
_RECORDS = 100
_CONVERTER = "openvino.tools.ovc"
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
        openvino = _runtime()
        self.precision = precision
        self.threads = threads
        self._openvino = openvino
        self._lock = threading.Lock()
        self._core = _core()
        self._path = path
        self._any_shape: Any = None
        self._fixed: Any = None
        self._fixed_shape: tuple[int, ...] = ()
        if warmup_shape is None:
            self._model = self._read()
        else:
            self._model = None  # read when another shape comes
            self._fixed = self._for_shape(warmup_shape, CompiledCache(openvino.__version__))
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
            if self._model is None:
                self._model = self._read()
            self._any_shape = self._compile(self._model).create_infer_request()
        return self._any_shape

    def _for_shape(self, shape: tuple[int, int, int, int], cache: CompiledCache) -> Any:
        """An infer request of the network for inputs of `shape`, compiled or kept from before."""
        place = cache.path(self._path, shape, self._settings)
        blob = cache.read(place) if place is not None else None
        if blob is not None:
            try:
                compiled = self._core.import_model(io.BytesIO(blob), "CPU", self._settings)
                return compiled.create_infer_request()
            except RuntimeError:  # it was made by another build of OpenVINO, and is replaced
                pass
        model = self._read()
        model.reshape(list(shape))
        compiled = self._compile(model)
        if place is not None:
            cache.write(place, compiled.export_model().getvalue())
        return compiled.create_infer_request()

    def _read(self) -> Any:
        try:
            return self._core.read_model(self._path)
        except RuntimeError as error:
            message = f"{self._path}: OpenVINO cannot load it: {_first_line(error)}"
            raise UserError(message) from error

    def _compile(self, model: Any) -> Any:
        """The model compiled for this CPU."""
        return self._core.compile_model(model, "CPU", self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "CPU_RUNTIME_CACHE_CAPACITY": _RECORDS,
            "ENABLE_CPU_PINNING": False,  # several processes would share the first cores
        }


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the process, which is never ended.

    Each that loads the CPU's plugin gives the calling thread a stack for signal handlers, and frees
    it at its end. If two end in the order in which they were made, the thread is left with the
    freed stack of the first, and the next signal that has a handler (Ctrl-C, SIGTERM) crashes the
    process (seen with OpenVINO 2026.4).
    """
    return _runtime().Core()


@functools.cache
def _runtime() -> ModuleType:
    """OpenVINO; its converter of other frameworks' files, a third of the import, when it is used.

    The package can do without it, and so does this engine; who asks for `convert_model` in the same
    process gets it all the same.
    """
    if "openvino" in sys.modules or _CONVERTER in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # an ImportError, which it expects
    try:
        openvino = importlib.import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]

    def convert_model(*arguments: Any, **named: Any) -> Any:
        return importlib.import_module(_CONVERTER).convert_model(*arguments, **named)

    openvino.convert_model = convert_model
    return openvino


def _first_line(error: Exception) -> str:
    """The last line of OpenVINO's message says what is wrong; those before, where in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
