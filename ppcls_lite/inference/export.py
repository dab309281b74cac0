"""Export: a trained network to a folder that Paddle Inference can run, checked before it is kept.

The folder holds the program (`inference.json`), the weights (`inference.pdiparams`) and
`inference.yml` with pre-processing, post-processing and label names. It is written beside its
place, run there with oneDNN and compared with the network itself, and only then renamed into
place. Read next: spec.py, agreement.py, engines/.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite import __version__
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.settings import TilingSettings, TtaSettings
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.transforms.compose import channels_of
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.agreement import Agreement, joined, mismatch
from ppcls_lite.inference.engines import Engine, available_engines, make_engine
from ppcls_lite.inference.engines.files import ONNX_NAMES
from ppcls_lite.inference.onnx.export import ReferenceEngine, write_onnx
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.postprocess.base import Postprocess
from ppcls_lite.inference.preprocess import Image, Prepared, Preprocessor, accepts, alike
from ppcls_lite.inference.programs import MAPS, RAW, Program, chosen_programs
from ppcls_lite.inference.shipped import STEM, Shipped, save_program
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec, Outputs, checksum
from ppcls_lite.inference.views import require_seen, views_of
from ppcls_lite.system.files import disk_errors, require_room, whole_folder
from ppcls_lite.system.installed import require

Format = Literal["paddle", "onnx", "both"]
_SUFFIXES = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info")
CARD = "model_card.md"  # written for people, and theirs to change
_OWN_FILES = {FILE_NAME, CARD, *(STEM + suffix for suffix in _SUFFIXES), *ONNX_NAMES.values()}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: nn.functional.softmax(logits, axis=1),
    "sigmoid": nn.functional.sigmoid,
    "argmax": lambda logits: logits.argmax(axis=1).astype("int32"),
}


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how close it is to the network."""

    folder: Path
    model_name: str
    what: str  # the outputs in words
    sizes: dict[str, int]  # bytes per file
    engines: tuple[str, ...]  # what ran it for the comparison
    merged_places: int  # branches that became part of single convolutions
    images: int  # that were compared
    max_difference: float  # of outputs (and logarithms of probabilities), relative to the largest
    changed: int  # images with another answer; only ties may

    def __str__(self) -> str:
        files = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in self.sizes.items())
        merged = f"; {self.merged_places} branches merged" if self.merged_places else ""
        return (
            f"exported {self.model_name} to {self.folder} ({files}{merged}); {self.what} "
            f"equal the network's on {self.images} images with "
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
    plugins: Sequence[str | Path] = (),
    pdx_model_name: str | None = None,
    tiling: TilingSettings | None = None,
    tta: TtaSettings | None = None,
    calibration: dict[str, Any] | None = None,
    programs: Sequence[str] = (),
) -> ExportReport:
    """Export `model`, which is not changed, and check the result with every installed engine.

    Args:
        model: images (N, C, H, W) to logits (N, classes), or to a dict with `logits`; or a network
            with `outputs` and `deployed` (models/network.py). A copy of it is re-parameterised.
        out_dir: the folder to write; an earlier export there is replaced as a whole.
        image_shape: (C, H, W); -1 for a height or width that may vary. The batch always may.
        transforms: the pre-processing, as in `Infer.transforms` of a recipe.
        postprocess: one component in either YAML form; `None` is Topk with 5 classes.
        labels: the name of each class, instead of the post-processing's `class_id_map_file`.
        model_name: what `inference.yml` calls the network; default: its class.
        add_softmax: `False` leaves the softmax to the predictor; a sigmoid is always exported.
        sample_images: paths or (H, W, 3) uint8 RGB arrays to compare on; default: synthetic ones.
        format: "paddle" writes Paddle's program, "onnx" `inference.onnx`, "both" both.
        plugins: files with components of one's own; `inference.yml` names those that it needs.
        pdx_model_name: what PaddleX calls the network; default: its name for the zoo's network.
        tiling, tta: windows and views, whose logits the predictor puts together.
        calibration: what `inference.yml` is to say of evaluation images; it changes no answer.
        programs: names of further ones, each in a folder of its own: see programs.py.

    Raises:
        UserError: the arguments do not fit together, `out_dir` holds other files, or what was
            exported differs from the network or is not finite. Nothing is left behind.
    """
    if format not in get_args(Format):
        raise UserError(f"format: expected paddle, onnx or both, found {format!r}")
    if format != "paddle":
        require("onnx")
    shape = _checked_shape(image_shape)
    name, arguments = _postprocess_with_labels(postprocess, labels)
    with _on_cpu():
        shipped = Shipped(copy.deepcopy(model).to("cpu"))
    spec = InferenceSpec(
        model_name=model_name or type(model).__name__,
        transform_ops=_plain(transforms),
        postprocess={name: arguments},
        image_shape=shape,
        outputs=shipped.outputs,
        versions={"paddle": paddle.__version__, "ppcls_lite": __version__},
        plugins=tuple(map(str, plugins)),
        pdx_model_name=pdx_model_name,
        tiling=tiling,
        tta=tta,
        calibration=calibration or {},
    )
    views = views_of(tiling, tta)
    require_seen(views, shape)
    answers = build_postprocess(spec)
    if answers.coarse:
        if views:
            raise UserError(
                "Infer.PostProcess: output: coarse is for whole images; leave it out where "
                "Infer.tiling or Infer.tta put scores together"
            )
        shipped.coarsen()
    inside = add_softmax or answers.activation != "softmax"
    if answers.activation != "none" and inside and not views:
        shipped.activation = _ACTIVATIONS[answers.activation]
        spec.output = answers.activated_kind
        spec.outputs = answers.activated_names or spec.outputs
    else:
        spec.output = "logits"
    further = chosen_programs(programs, shipped, answers, whole=not views, shape=shape)
    window = views.window if views else None
    prepare = Preprocessor(spec.transform_ops, plugins=spec.plugins, window=window)
    prepared = _prepared(prepare, shape, sample_images)
    spec.plugins = _needed(spec.plugins, [answers, *prepare.transform.ops])
    inputs = np.stack([item.array for item in prepared])  # (N, C, H, W)
    target = Path(out_dir)
    own = {*_OWN_FILES, RAW, MAPS, *answers.endings()}
    with disk_errors(target), whole_folder(target, own) as folder, _on_cpu():
        shipped.eval()
        expected = spec.named(shipped.run(inputs))
        if not all(np.isfinite(array).all() for array in expected.values()):
            raise UserError(
                "the network gives values that are not finite (NaN or infinity) in eval mode; its "
                "weights are damaged or the training diverged. Export another checkpoint"
            )
        finished = expected if not views else answers.activated(expected)
        answers(finished, [item.meta for item in prepared])  # outputs that do not fit show here
        merged = shipped.reparameterize()
        _save(shipped, folder, shape)
        for name, program in further.items():
            _write_program(program, folder / name, spec, format, inputs, expected)
        engines = _engines(folder, spec, format)
        spec.checksums = {path.name: checksum(path) for path in _files(folder)}
        spec.write(folder)
        compared = [_compare(*item, spec, answers, inputs, expected) for item in engines.items()]
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in _files(folder, "**/*")}
    return ExportReport(
        *(Path(out_dir), spec.model_name, answers.describe(expected, spec.output), sizes),
        *(tuple(engines), merged, len(inputs)),
        max_difference=max(agreement.largest for agreement in compared),
        changed=max(agreement.changed() for agreement in compared),
    )


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


def _needed(plugins: Sequence[str], parts: Sequence[object]) -> tuple[str, ...]:
    """The files that some of `parts` come from."""
    homes = {Path(inspect.getfile(type(part))) for part in parts}
    return tuple(file for file in plugins if Path(file).expanduser().absolute() in homes)


def _prepared(
    prepare: Preprocessor,
    shape: tuple[int, int, int],
    sample_images: Sequence[Image] | np.ndarray | None,
) -> list[Prepared]:
    """The images to compare on, pre-processed and of one size."""
    channels = channels_of(prepare.transform.ops)
    images = _synthetic_pictures(channels) if sample_images is None else sample_images
    prepared = [prepare(image) for image in images]
    for array, _ in prepared:
        if not accepts(shape, array.shape):
            raise UserError(
                f"Infer.transforms give images of the shape {array.shape}, but Global.image_shape "
                f"is {list(shape)}; make the two agree"
            )
    arrays = alike([item.array for item in prepared])
    return [Prepared(array, item.meta) for array, item in zip(arrays, prepared)]


def _synthetic_pictures(channels: int) -> list[np.ndarray]:
    """Four (H, W, channels) uint8 pictures of coloured tiles, the same on every machine."""
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (12, 16, channels), np.uint8) for _ in range(4)]
    return [tile.repeat(25, axis=0).repeat(25, axis=1) for tile in tiles]  # (300, 400, channels)


def _engines(folder: Path, spec: InferenceSpec, format: Format) -> dict[str, Engine]:
    """Write the format's files, and load each of them with what is to be compared."""
    engines: dict[str, Engine] = {}
    if format != "onnx":
        engines["paddle"] = make_engine(folder, "paddle")
    if format != "paddle":
        path = folder / ONNX_NAMES["fp32"]
        write_onnx(folder, path, spec.text(), spec.model_name)
        for name, missing in available_engines().items():
            if name != "paddle" and missing is None:
                engines[name] = make_engine(path, name)
        if not {*engines} - {"paddle"}:
            engines["onnx's reference"] = ReferenceEngine(path)
    if format == "onnx":
        for program in folder.glob(f"{STEM}.*"):
            if program.suffix != ".onnx":
                program.unlink()
    return engines


def _write_program(
    program: Program,
    folder: Path,
    spec: InferenceSpec,
    format: Format,
    inputs: np.ndarray,
    expected: Outputs,
) -> None:
    """Write a further program, and hold each engine's outputs against the network's."""
    folder.mkdir()
    program.layer.eval()
    _save(program.layer, folder, spec.image_shape or ())
    engines = _engines(folder, replace(spec, outputs=program.outputs), format)
    for (name, engine), count in product(engines.items(), (len(inputs), 1)):
        own = {key: array[:count] for key, array in expected.items()}
        problem = program.difference(inputs[:count], own, engine.run(inputs[:count]))
        if problem is not None:
            raise UserError(
                f"the program {folder.name} run by {name} gives {problem}, compared with the "
                f"network; nothing was written. Leave it out, or export another --format"
            )


def _save(shipped: Shipped, folder: Path, shape: Sequence[int]) -> None:
    save_program(shipped, folder, shape)
    require_room(folder)  # on a full disk Paddle leaves half of a file and says nothing


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return [path for path in sorted(folder.glob(pattern)) if path.is_file()]


def _compare(
    name: str,
    engine: Engine,
    spec: InferenceSpec,
    answers: Postprocess,
    inputs: np.ndarray,
    expected: Outputs,
) -> Agreement:
    """Hold an engine's outputs against the network's; the batch size must not matter."""
    found = joined([spec.named(engine.run(batch)) for batch in (inputs, inputs[:1])])
    expected = joined([expected, {key: array[:1] for key, array in expected.items()}])
    problem = mismatch(expected, found)
    if problem is not None:
        raise UserError(f"the exported model run by {name} gives {problem}; nothing was written")
    agreement = answers.agreement(expected, found, spec.output)
    problem = agreement.exported()
    if problem is not None:
        raise UserError(
            f"the exported model run by {name} differs from the network: {problem}; nothing was "
            f"written. Please report it with the recipe and Paddle's version, {paddle.__version__}"
        )
    return agreement


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """Make new tensors on the CPU, where the exported model is compared."""
    before = paddle.device.get_device()
    paddle.device.set_device("cpu")
    try:
        yield
    finally:
        paddle.device.set_device(before)
