"""Runs an ONNX file with ONNX Runtime, for teachers from other frameworks.

Read next: inference_model.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import default_threads


class OnnxEngine:
    """An engine, as inference/engines.py describes one, around an ONNX file.

    Args:
        path: the file.
        threads: of one run; None: the usable cores, at most 4.

    Attributes:
        shape: of the input, (N, C, H, W), with None for what may vary.

    Raises:
        UserError: onnxruntime is not installed, or the file is missing, damaged or has more than
            one input.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{path}: running an ONNX file needs onnxruntime: pip install onnxruntime"
            ) from error
        if not path.is_file():
            raise UserError(f"{path}: no such file (looked for {path.absolute()})")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = default_threads() if threads is None else threads
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no public base class
            raise UserError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: "
                f"{str(error).splitlines()[0]}"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            found = ", ".join(f"{item.name} {item.shape}" for item in inputs)
            raise UserError(f"{path}: expected one input (N, C, H, W), the file has {found}")
        self._name = inputs[0].name
        self.shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to the outputs of the graph.

        Raises:
            UserError: the graph does not take an input of this shape.
        """
        try:
            return self._session.run(None, {self._name: np.ascontiguousarray(inputs, np.float32)})
        except Exception as error:  # as above
            raise UserError(
                f"the graph cannot run on an input of shape {inputs.shape}: "
                f"{str(error).splitlines()[0]}"
            ) from error
