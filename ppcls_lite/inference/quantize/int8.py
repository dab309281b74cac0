"""Post-training quantisation: `inference_int8.onnx` beside an exported network, with its price.

Weights become int8 per channel and activations uint8 with ranges seen on calibration images, as
quantise-dequantise nodes (QDQ) that ONNX Runtime and OpenVINO both read, made by ONNX Runtime's
`quantize_static`. Which layers stay in float is measured on the calibration images, so that the
evaluation images stay unseen: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
Read next: report.py (what it costs), ../cli/quantize.py (the command).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import joined
from ppcls_lite.inference.engines import EngineName, make_engine
from ppcls_lite.inference.engines.files import ONNX_NAMES, find_onnx
from ppcls_lite.inference.onnx.metadata import QUANTIZATION_KEY
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec, Outputs, checksum
from ppcls_lite.system.files import write_bytes, write_text
from ppcls_lite.system.installed import missing, require
from ppcls_lite.system.machine import cpu_flags

if TYPE_CHECKING:
    import onnx

_QUANTISED = ["Conv", "Gemm"]
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_WORDS = {
    **{"none": "nothing", "ends": "the first and last layer", "se": "squeeze-and-excitation"},
    "ends+se": "first, last and squeeze-and-excitation layers",
}
_LOST = 0.005  # a smaller loss of agreement is not worth a layer in float

logger = logging.getLogger("ppcls_lite")


@dataclass(frozen=True)
class Variant:
    """One way to quantise: which layers stay in float, and how it did on calibration images."""

    name: str  # a key of _WORDS
    layers: tuple[str, ...]  # the names of their nodes
    agreement: float  # share of the images with the answer of the float network


def quantize(
    source: Path,
    spec: InferenceSpec,
    images: Sequence[np.ndarray],
    room: Path,
    keep_float: str = "auto",
) -> tuple[Path, list[Variant]]:
    """Write an int8 network into the folder `room`.

    Args:
        source: the float network, an ONNX file (`float_model`).
        spec: the `inference.yml` of its folder.
        images: pre-processed calibration images, (C, H, W) float32 each.
        keep_float: "auto" measures; else "none", "ends", "se" or "ends+se".

    Returns the file and the variants that were tried, the chosen one first. Raises UserError if
    the network has no layer to quantise.
    """
    require("onnx")
    require("onnxruntime")
    answers = build_postprocess(spec)
    reference = outputs_of(source, spec, images)
    tried: list[Variant] = []
    for name, layers in _choices(source, keep_float):
        path = room / f"{name}.onnx"
        _quantize(source, path, images, layers)
        agreement = answers.agreement(reference, outputs_of(path, spec, images), spec.output)
        tried.append(Variant(name, tuple(layers), agreement.same))
        logger.info(
            "int8 with %s in float: %s as before on %.2f %% of the calibration images",
            _WORDS[name],
            agreement.answer,
            100 * agreement.same,
        )
    best = max(variant.agreement for variant in tried)
    chosen = next(v for v in tried if v.agreement >= best - _LOST)  # the least float first
    others = [variant for variant in tried if variant is not chosen]
    return room / f"{chosen.name}.onnx", [chosen, *others]


def refuse_existing(model_dir: Path) -> Path:
    """The file to write; UserError if there is one already."""
    target = model_dir / ONNX_NAMES["int8"]
    if target.exists():
        raise UserError(f"{target}: exists already and is not overwritten; delete or move it first")
    return target


def float_model(model_dir: Path, spec: InferenceSpec, room: Path) -> Path:
    """`inference.onnx` of the folder, or the program converted into `room`."""
    if (model_dir / ONNX_NAMES["fp32"]).is_file():
        return find_onnx(model_dir)
    from ppcls_lite.inference.onnx.export import write_onnx

    write_onnx(model_dir, room / "converted.onnx", spec.text(), spec.model_name)
    return room / "converted.onnx"


def outputs_of(path: Path, spec: InferenceSpec, images: Sequence[np.ndarray]) -> Outputs:
    """What the network of an ONNX file gives images (C, H, W)."""
    run = runner_of(path, spec)
    return joined([run(image[None]) for image in images])


def runner_of(path: Path, spec: InferenceSpec) -> Callable[[np.ndarray], Outputs]:
    """The network of an ONNX file: images (N, C, H, W) float32 to its outputs."""
    name: EngineName = "openvino" if missing("openvino") is None else "onnxruntime"
    engine = make_engine(path, name, precision=None)
    return lambda images: spec.named(engine.run(images))


def _choices(source: Path, keep_float: str) -> Iterator[tuple[str, list[str]]]:
    """What may stay in float, the least first."""
    import onnx

    graph = onnx.load(source).graph
    layers = [node.name for node in graph.node if node.op_type in _QUANTISED]
    if not layers:
        raise UserError(f"{source}: has no convolution or matrix product to quantise")
    ends, attention = [layers[0], layers[-1]], _attention_layers(graph)
    choices = {"none": [], "ends": ends}
    if attention:
        choices |= {"se": attention, "ends+se": [*ends, *attention]}
    if keep_float != "auto":
        if keep_float not in choices:
            raise UserError(
                f"keep_float: expected auto or one of {', '.join(choices)} for this network, "
                f"found {keep_float!r}"
            )
        choices = {keep_float: choices[keep_float]}
    yield from choices.items()


def _attention_layers(graph: onnx.GraphProto) -> list[str]:
    """The 1x1 convolutions between a global pooling and a gate: they see one value a channel."""
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        before: onnx.NodeProto | None = node
        if node.op_type != "Conv":
            continue
        while before is not None and before.op_type in ("Conv", "Relu", "Sigmoid", "HardSigmoid"):
            before = makers.get(before.input[0])
        if before is not None and before.op_type == "GlobalAveragePool" and _gates(graph, node):
            found.append(node.name)
    return found


def _gates(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether the chain after `node` ends in a product."""
    name = node.output[0]
    while True:
        readers = [reader for reader in graph.node if name in reader.input]
        if len(readers) != 1:
            return False
        (reader,) = readers
        if reader.op_type == "Mul":
            return True
        if reader.op_type not in ("Conv", "Relu", "Sigmoid", "HardSigmoid"):
            return False
        name = reader.output[0]


def _quantize(source: Path, path: Path, images: Sequence[np.ndarray], keep: list[str]) -> None:
    import onnx
    from onnxruntime import quantization as q

    model = onnx.load(source)
    root = logging.getLogger()
    root.addFilter(_no_advice)
    try:
        q.quantize_static(
            model,
            str(path),
            _Reader(model.graph.input[0].name, images),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            # Without VNNI two products are added in 16 bits, which may overflow: 7 bits are kept.
            reduce_range=not cpu_flags() & _VNNI,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            nodes_to_exclude=keep,
            calibrate_method=q.CalibrationMethod.MinMax,
        )
    finally:
        root.removeFilter(_no_advice)


def _no_advice(record: logging.LogRecord) -> bool:
    """ONNX Runtime's advice to fuse batch normalisation first, which the export has done."""
    return "pre-processing before quantization" not in record.getMessage()


class _Reader:
    """Hands the calibration images to ONNX Runtime one by one, then `None`."""

    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self._batches = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def keep(model_dir: Path, spec: InferenceSpec, int8_model: Path, report: Any) -> Path:
    """Put the file with its measured report into an exported folder, as the last thing of all.

    `spec`, the folder's `inference.yml`, gets its check sum, if it has check sums at all
    (PaddleClas's has none). Raises UserError if there is such a file already.
    """
    import onnx

    target = refuse_existing(model_dir)
    model = onnx.load(int8_model)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, QUANTIZATION_KEY: json.dumps(asdict(report))})
    try:
        write_bytes(target, model.SerializeToString())
        if spec.checksums:
            spec.checksums[target.name] = checksum(target)
            write_text(model_dir / FILE_NAME, spec.text())
    except BaseException:  # an interrupt as well: with one of the two the folder is not whole
        target.unlink(missing_ok=True)
        raise
    return target
