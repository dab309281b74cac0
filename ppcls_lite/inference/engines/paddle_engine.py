"""Paddle: an exported program run by Paddle Inference, with oneDNN (MKLDNN) on a CPU.

How it is tuned, and where each point is measured: docs/deployment.md. In short: intermediate
results stay allocated between two runs, which the flag in `_kept_buffers` asks for and which only
the first run of a program reads; memory optimisation stays off, because Paddle 3.3 cannot create a
predictor from a .json program with it. Read next: ../predictor.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.inference

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.files import find_program
from ppcls_lite.system.machine import default_threads

_GPU_POOL_MIB = 256  # to start with; it grows on demand
_SHAPES_CACHED = 10  # input shapes whose oneDNN primitives are kept
_FLAG_LOCK = threading.Lock()


class PaddleEngine:
    """Runs the program in `model_dir`; safe from several threads, one run at a time.

    The folder holds one program, `*.json` (preferred) or `*.pdmodel`, and its `*.pdiparams`; the
    other arguments are those of `EngineChoice`. A Paddle without oneDNN runs without it, and
    `mkldnn` says so. Files that are missing or damaged, and what this
    Paddle lacks, are a UserError.
    """

    name = "paddle"

    def __init__(
        self,
        model_dir: str | Path,
        device: str = "cpu",
        mkldnn: bool = True,
        threads: int | None = None,
        warmup_shape: tuple[int, int, int, int] | None = None,
        precision: str = "fp32",
    ) -> None:
        program, params = find_program(Path(model_dir))
        self.device = device
        self.precision = precision
        has_onednn = paddle.base.core.is_compiled_with_mkldnn()  # not on Arm, not on macOS
        self.mkldnn = mkldnn and device == "cpu" and has_onednn
        if precision == "bf16" and not self.mkldnn:
            raise UserError("precision bf16: this Paddle is built without oneDNN (MKLDNN)")
        self.threads = default_threads() if threads is None else threads
        config = self._config(program, params)
        self._lock = threading.Lock()
        self._ran = False
        try:
            self._predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"{program}: Paddle {paddle.__version__} cannot load it: {_first_line(error)}; "
                "the file is damaged or from another Paddle version, export the network again"
            ) from error
        names = self._predictor.get_input_names()
        if len(names) != 1:
            raise UserError(f"{program}: expected one input, the program has {names}")
        self._input = self._predictor.get_input_handle(names[0])
        outputs = self._predictor.get_output_names()
        self._outputs = [self._predictor.get_output_handle(name) for name in outputs]
        if warmup_shape is not None:
            self.run(np.zeros(warmup_shape, np.float32))

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """One batch (N, C, H, W) to copies of the outputs; UserError for a shape it cannot take."""
        inputs = np.ascontiguousarray(inputs, np.float32)
        with self._lock, contextlib.nullcontext() if self._ran else _kept_buffers():
            try:
                self._input.copy_from_cpu(inputs)
                self._predictor.run()
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"the program cannot run on an input of shape {inputs.shape}: "
                    f"{_first_line(error)}"
                ) from error
            self._ran = True
            return [output.copy_to_cpu() for output in self._outputs]

    def _config(self, program: Path, params: Path) -> Any:
        config = paddle.inference.Config(str(program), str(params))
        config.disable_glog_info()
        if self.device == "gpu":
            if not paddle.is_compiled_with_cuda():
                raise UserError(
                    "device gpu: this Paddle is the CPU build; install paddlepaddle-gpu"
                )
            config.enable_use_gpu(_GPU_POOL_MIB, 0)
            return config
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(self.threads)
        if not self.mkldnn:
            config.disable_mkldnn()
        else:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(_SHAPES_CACHED)
            if self.precision == "bf16":
                config.enable_mkldnn_bfloat16()
        return config


@contextlib.contextmanager
def _kept_buffers() -> Iterator[None]:
    """Keep a program's intermediate results allocated, if its first run is made in here.

    The flag is one of the process; it is put back so that no other program is affected.
    """
    name = "FLAGS_eager_delete_tensor_gb"
    with _FLAG_LOCK:
        before = paddle.get_flags(name)
        paddle.set_flags({name: -1.0})
        try:
            yield
        finally:
            paddle.set_flags(before)


def _first_line(error: Exception) -> str:
    """The message of a Paddle error without its C++ stack and hints."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("(")), lines[0] if lines else "")
