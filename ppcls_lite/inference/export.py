"""Export: a trained network to a folder that Paddle Inference can run, checked before it is kept.

The folder holds the program (`inference.json`), the weights (`inference.pdiparams`) and
`inference.yml` with pre-processing, post-processing and label names. It is written beside its
place, run there with oneDNN and compared with the network itself, and only then renamed into
place. Read next: spec.py, engines/.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import paddle
from paddle import nn

from ppcls_lite import __version__
from ppcls_lite.config.check import build
from ppcls_lite.config.components import take_apart
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.engines import Engine, available_engines, make_engine
from ppcls_lite.inference.engines.files import ONNX_NAMES
from ppcls_lite.inference.engines.installed import require
from ppcls_lite.inference.onnx.export import ReferenceEngine, write_onnx
from ppcls_lite.inference.predictor import Image, build_transform
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec, checksum
from ppcls_lite.system.files import whole_folder

Format = Literal["paddle", "onnx", "both"]
TOLERANCE = 1e-3  # largest difference of an output, relative to the largest output of its row
_SMALLEST_PROBABILITY = 1e-20  # Paddle's softmax clips at exp(-64), oneDNN's does not
_TIE = 1e-5  # two best classes closer than this (relative) may change places
STEM = "inference"
_SUFFIXES = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info")
_OWN_FILES = {FILE_NAME, *(STEM + suffix for suffix in _SUFFIXES), *ONNX_NAMES.values()}
_CHECK_IMAGES, _FREE_EDGE = 4, 224
_ACTIVATIONS = {"softmax": nn.functional.softmax, "sigmoid": nn.functional.sigmoid, "none": None}


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how close it is to the network.

    Attributes:
        folder: where the exported model lies.
        sizes: bytes per file.
        engines: what ran it for the comparison.
        merged_places: branches that re-parameterisation merged into single convolutions.
        images: how many images were compared.
        max_difference: the largest difference of an output, relative to the largest output of its
            image; of probabilities also that of their logarithms.
        top1_changed: images whose best class changed; only ties (closer than 1e-5) may.
    """

    folder: Path
    model_name: str
    output: str
    class_num: int
    sizes: dict[str, int]
    engines: tuple[str, ...]
    merged_places: int
    images: int
    max_difference: float
    top1_changed: int

    def __str__(self) -> str:
        files = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in self.sizes.items())
        merged = f"; {self.merged_places} branches merged" if self.merged_places else ""
        return (
            f"exported {self.model_name} to {self.folder} ({files}{merged}); {self.output} of "
            f"{self.class_num} classes equal the network's on {self.images} images with "
            f"{', '.join(self.engines)} (largest relative difference {self.max_difference:.1e})"
        )


def export_model(
    model: nn.Layer,
    out_dir: str | Path,
    image_shape: Sequence[int] = (3, 224, 224),
    transforms: Sequence[Any] = (),
    postprocess: dict[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    model_name: str | None = None,
    add_softmax: bool = True,
    sample_images: Sequence[Image] | np.ndarray | None = None,
    format: Format = "paddle",
) -> ExportReport:
    """Export `model`, which is not changed, and check the result on a CPU.

    It is run by Paddle with oneDNN and, as ONNX, by every installed engine that reads it.

    Args:
        model: images (N, C, H, W) to logits (N, classes), or to a dict with `logits`. Its copy is
            put in eval mode and re-parameterised if it has `reparameterize()`.
        out_dir: the folder to write; an earlier export there is replaced as a whole.
        image_shape: (C, H, W); -1 for a height or width that may vary. The batch always may.
        transforms: the pre-processing, as in `Infer.transforms` of a recipe.
        postprocess: one component in either YAML form; `None` is Topk with 5 classes. Label names
            from its `class_id_map_file` are written into the folder.
        labels: the name of each class, instead of a `class_id_map_file`.
        model_name: what `inference.yml` calls the network; default: its class.
        add_softmax: put the softmax into the program. `False` exports logits; the predictor then
            applies it. The sigmoid of multi-label post-processing is always in the program.
        sample_images: paths or (H, W, 3) uint8 RGB arrays to compare on; default: four
            synthetic pictures.
        format: "paddle" writes Paddle's program, "onnx" `inference.onnx`, "both" both.

    Raises:
        UserError: pre-processing, post-processing, labels or shapes do not fit together;
            `out_dir` holds other files; the exported model differs from the network or gives
            values that are not finite. Nothing is left behind.
    """
    if format not in get_args(Format):
        raise UserError(f"format: expected paddle, onnx or both, found {format!r}")
    if format != "paddle":
        require("onnx")
    shape = _checked_shape(image_shape)
    name, arguments = _postprocess_with_labels(postprocess, labels)
    answers = build({name: arguments}, "postprocess")
    activation = answers.activation
    if activation == "softmax" and not add_softmax:
        activation = "none"
    spec = InferenceSpec(
        model_name=model_name or type(model).__name__,
        transform_ops=_plain(transforms),
        postprocess={name: arguments},
        image_shape=shape,
        output="logits" if activation == "none" else "probabilities",
        versions={"paddle": paddle.__version__, "ppcls_lite": __version__},
    )
    inputs = _check_inputs(spec, sample_images)
    with whole_folder(Path(out_dir), _OWN_FILES) as folder, _on_cpu():
        shipped = Shipped(copy.deepcopy(model).to("cpu"), _ACTIVATIONS[activation])
        shipped.eval()
        with paddle.no_grad():
            expected = shipped(paddle.to_tensor(inputs)).numpy()  # (N, classes)
        _require_finite(expected)
        answers(expected)  # a wrong number of classes or label names shows here
        merged = shipped.reparameterize()
        save_program(shipped, folder, shape)
        engines = _engines(folder, spec, format)
        spec.checksums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
        spec.write(folder)
        compared = [_compare(*item, spec, inputs, expected) for item in engines.items()]
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return ExportReport(
        folder=Path(out_dir),
        model_name=spec.model_name,
        output=spec.output,
        class_num=expected.shape[1],
        sizes=sizes,
        engines=tuple(engines),
        merged_places=merged,
        images=len(inputs),
        max_difference=max(difference for difference, _ in compared),
        top1_changed=max(changed for _, changed in compared),
    )


class Shipped(nn.Layer):
    """The network as it is exported: logits, or what its post-processing wants to see.

    `activation` turns logits (N, classes) into that; `None` leaves them.
    """

    def __init__(self, model: nn.Layer, activation: Any) -> None:
        super().__init__()
        self.model = model
        self.activation = activation

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        outputs = self.model(image)
        if isinstance(outputs, dict):
            outputs = outputs["logits"]
        return outputs if self.activation is None else self.activation(outputs)  # (N, classes)

    def reparameterize(self) -> int:
        """Merge the network's branches, if it has any; returns how many."""
        merge = getattr(self.model, "reparameterize", None)
        return int(merge() or 0) if merge else 0


def save_program(shipped: Shipped, folder: Path, shape: Sequence[int]) -> None:
    """Write `inference.json` and `inference.pdiparams` for images of `shape` (C, H, W)."""
    free = [None if edge == -1 else edge for edge in shape]
    inputs = [paddle.static.InputSpec([None, *free], "float32", name="image")]
    program = paddle.jit.to_static(shipped, input_spec=inputs, full_graph=True)
    paddle.jit.save(program, str(folder / STEM))
    (folder / f"{STEM}.pdiparams.info").unlink(missing_ok=True)  # names, only for training on


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    shape = tuple(image_shape)
    if len(shape) != 3 or shape[0] < 1 or any(edge < 1 and edge != -1 for edge in shape):
        raise UserError(
            f"Global.image_shape: expected [channels, height, width], found {list(image_shape)}"
        )
    return shape


def _postprocess_with_labels(
    postprocess: dict[str, Any] | None, labels: Sequence[str] | None
) -> tuple[str, dict[str, Any]]:
    """Name and arguments, with label names in the place of a label file."""
    node = _plain(postprocess or {"Topk": {"topk": 5}})
    try:
        name, arguments = take_apart(node)
    except ConfigError as error:
        raise UserError(f"Infer.PostProcess: {error}") from None
    file, delimiter = arguments.pop("class_id_map_file", None), arguments.pop("delimiter", None)
    if labels is not None:
        arguments["label_list"] = [str(label) for label in labels]
    elif file is not None:
        arguments["label_list"] = read_label_file(file, delimiter)
    return name, arguments


def _plain(value: Any) -> Any:
    """Lists, maps and scalars only, so that safe YAML can write them."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _check_inputs(
    spec: InferenceSpec, sample_images: Sequence[Image] | np.ndarray | None
) -> np.ndarray:
    """The images to compare on, pre-processed: (N, C, H, W) float32."""
    transform = build_transform(spec.transform_ops)
    images = _synthetic_pictures() if sample_images is None else sample_images
    arrays = [transform({"image": image}, None)["image"] for image in images]
    for array in arrays:
        if not spec.accepts(array.shape):
            raise UserError(
                f"Infer.transforms give images of the shape {array.shape}, but Global.image_shape "
                f"is {list(spec.image_shape)}; make the two agree"
            )
    height, width = np.min([array.shape[1:] for array in arrays], axis=0)  # differ only if free
    return np.stack([array[:, :height, :width] for array in arrays])  # (N, C, H, W)


def _synthetic_pictures() -> list[np.ndarray]:
    """Four (H, W, 3) uint8 pictures of coloured tiles, the same on every machine."""
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (12, 16, 3), np.uint8) for _ in range(4)]
    return [tile.repeat(25, axis=0).repeat(25, axis=1) for tile in tiles]  # (300, 400, 3)


def _engines(folder: Path, spec: InferenceSpec, format: Format) -> dict[str, Engine]:
    """Write the format's files, and load each of them with what is to be compared."""
    engines: dict[str, Engine] = {}
    if format in ("paddle", "both"):
        engines["paddle"] = make_engine(folder, "paddle")
    if format in ("onnx", "both"):
        path = folder / ONNX_NAMES["fp32"]
        write_onnx(folder, path, spec.text(), spec.model_name)
        for name, missing in available_engines().items():
            if name != "paddle" and missing is None:
                engines[name] = make_engine(path, name)
        if not engines.keys() - {"paddle"}:
            engines["onnx's reference"] = ReferenceEngine(path)
    if format == "onnx":
        for program in folder.glob(f"{STEM}.*"):
            if program.suffix != ".onnx":
                program.unlink()
    return engines


def _compare(
    name: str, engine: Engine, spec: InferenceSpec, inputs: np.ndarray, expected: np.ndarray
) -> tuple[float, int]:
    """Run the exported files; the largest relative difference, and changed classes.

    The first image runs once more alone, because the batch size must not matter.
    """
    found = np.concatenate([engine.run(inputs)[0], engine.run(inputs[:1])[0]])
    expected = np.concatenate([expected, expected[:1]])
    if found.shape != expected.shape:
        raise UserError(
            f"the exported model gives the shape {found.shape}, the network {expected.shape}; "
            "nothing was written"
        )
    largest = np.abs(expected).max(axis=1, keepdims=True) + np.finfo(np.float32).tiny  # (N + 1, 1)
    relative = np.abs(found - expected) / largest  # (N + 1, classes)
    if spec.output == "probabilities":
        # A saturated softmax hides wrong logits in its largest entry; the small ones show them.
        logs = [np.log(np.maximum(p, _SMALLEST_PROBABILITY)) for p in (found, expected)]
        span = np.maximum(1.0, -logs[1].min(axis=1, keepdims=True))  # (N + 1, 1)
        relative = np.maximum(relative, np.abs(logs[0] - logs[1]) / span)
    difference = float(relative.max())
    chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)
    lost = (expected.max(axis=1, keepdims=True) - chosen) / largest  # 0 if the class is the same
    if not difference <= TOLERANCE or (lost > _TIE).any():
        raise UserError(
            f"the exported model run by {name} differs from the network: largest relative "
            f"difference {difference:.1e} (allowed {TOLERANCE:.0e}), best class changed on "
            f"{int((lost > _TIE).sum())} of {len(found)} images; nothing was written. Please "
            f"report it with the recipe and Paddle's version, {paddle.__version__}"
        )
    return difference, int((lost > 0).sum())


def _require_finite(outputs: np.ndarray) -> None:
    if outputs.ndim != 2:
        raise UserError(
            f"the network gives the shape {outputs.shape}; expected (N, classes): was it built "
            "without a classifier (class_num 0)?"
        )
    if not np.isfinite(outputs).all():
        raise UserError(
            "the network gives values that are not finite (NaN or infinity) in eval mode; its "
            "weights are damaged or the training diverged. Export another checkpoint"
        )


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """Make new tensors on the CPU, where the exported model is compared."""
    before = paddle.device.get_device()
    paddle.device.set_device("cpu")
    try:
        yield
    finally:
        paddle.device.set_device(before)
