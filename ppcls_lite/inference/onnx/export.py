"""An exported folder's Paddle program as `inference.onnx`, which OpenVINO and ONNX Runtime run.

The file carries `inference.yml` among its metadata, so that the file alone is enough for the
`Predictor`. It needs the package `onnx` to write, not to run. Why not paddle2onnx: version 2.1
installs packages by itself when it is imported and is bound to an old `onnx`.
Read next: graph.py, operations.py, ../engines/ (what runs it).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.files import find_program
from ppcls_lite.inference.spec import FILE_NAME
from ppcls_lite.system.files import write_bytes
from ppcls_lite.system.installed import require

if TYPE_CHECKING:
    import onnx


def write_onnx(model_dir: Path, path: Path, description: str, name: str = "network") -> None:
    """Write the program of an exported folder as ONNX, whole or not at all.

    `description` is the text of `inference.yml`, put into the metadata. Raises UserError if `onnx`
    is not installed, or the program holds something without a translation.
    """
    require("onnx")
    import onnx

    model = to_onnx(model_dir, name)
    onnx.checker.check_model(model, full_check=True)
    onnx.helper.set_model_props(model, {FILE_NAME: description})
    write_bytes(path, model.SerializeToString())


def to_onnx(model_dir: Path, name: str = "network") -> onnx.ModelProto:
    """The program of an exported folder as an ONNX model in memory."""
    from ppcls_lite.inference.onnx.graph import GraphWriter
    from ppcls_lite.inference.onnx.operations import TRANSLATIONS

    program, _ = find_program(model_dir)
    if program.suffix != ".json":
        raise UserError(f"{program}: a program of Paddle 2 cannot be converted; export it again")
    layer = paddle.jit.load(str(program.with_suffix("")))
    weights = {p.name: p.numpy() for p in layer.state_dict().values()}
    return GraphWriter(layer.program().global_block().ops, weights, TRANSLATIONS).write(name)


class ReferenceEngine:
    """Runs an ONNX file with the evaluator of the `onnx` package: slow, to check an export."""

    def __init__(self, path: Path) -> None:
        require("onnx")
        from onnx.reference import ReferenceEvaluator

        self._evaluator = ReferenceEvaluator(str(path))
        (self._input,) = self._evaluator.input_names

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(N, C, H, W) float32 to the network's outputs."""
        return self._evaluator.run(None, {self._input: inputs})
