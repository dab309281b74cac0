"""The Predictor: images in, answers out, from an exported folder and nothing else.

    from ppcls_lite import Predictor

    predictor = Predictor("inference")
    predictor.predict(["cat.jpg", "dog.jpg"], batch_size=2)
    # [{"file": "cat.jpg", "class_ids": [281, ...], "scores": [...], "label_names": [...]}, ...]

It puts the three steps of a pipeline together: preprocess.py, engines/ and postprocess/, as
`inference.yml` says. Read next: spec.py (the file), pipeline.py (many images).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import joined
from ppcls_lite.inference.engine_process import EngineProcess
from ppcls_lite.inference.engines import (
    AUTO,
    AutoName,
    Device,
    Engine,
    EngineChoice,
    EngineName,
    Precision,
)
from ppcls_lite.inference.engines.files import input_shape
from ppcls_lite.inference.pipeline import Observer, Pipeline
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.postprocess.base import Postprocess, Result, finite
from ppcls_lite.inference.preprocess import Image, Meta, Preprocessor, accepts
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec, Outputs
from ppcls_lite.inference.views import views_of

if TYPE_CHECKING:
    from ppcls_lite.inference.auto.cache import Choice

ONE_IMAGE = (str, os.PathLike, bytes, np.ndarray, PIL.Image.Image)
_WARMUP_EDGE = 224  # of networks that take any size
_TRIALS = 3  # images that show whether outputs are probabilities
_NO_NUMBER = (
    "the network's answer is not a number (NaN or infinite): its weights are damaged, or a "
    "precision below fp32 overflows"
)


class Predictor:
    """Predicts images with an exported network.

    One predictor may be used from several threads; one batch runs at a time.

    Args:
        model_dir: the folder that `ppcls-lite export` wrote, or an ONNX file of such a folder.
        device, mkldnn, threads, engine, precision: how the network runs, see `EngineChoice`.
            Engine "auto" is the fastest that is installed and right, measured once for this model
            and machine (auto/choose.py).
        topk: how many classes per image, instead of the number in `inference.yml`.
        settings: arguments of the post-processing instead of those in `inference.yml`.
        isolate: above 0, run the engine in a process of its own, with shared memory for batches
            of so many images, so that Python goes on while it runs (engine_process.py). End it
            with `close` or a `with` block.
        plugins: files with components of one's own that `inference.yml` names.

    Attributes:
        spec: what `inference.yml` says: `model_name`, `labels`, `image_shape`, ...
        engine, postprocess: what runs the program, and what makes results of its outputs.
        choice: what engine "auto" chose and why; else `None`.
        pipeline: the three steps, for a service that has threads of its own.

    A file that is missing, damaged or of another version is a UserError.
    """

    def __init__(
        self,
        model_dir: str | Path,
        device: Device = "cpu",
        mkldnn: bool = True,
        threads: int | None = None,
        topk: int | None = None,
        engine: EngineName | AutoName = "paddle",
        precision: Precision | None = None,
        isolate: int = 0,
        plugins: Sequence[str | Path] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folder = Path(model_dir)
        spec = InferenceSpec.read(folder, plugins).answering(settings or {})
        if folder.is_dir():
            spec.check_files(folder)
        wanted = EngineChoice(engine, precision, threads, device, mkldnn)
        program = input_shape(folder, engine, precision)
        try:
            spec.agree_on_shape(program)
            self._prepare(spec, build_postprocess(spec, topk))
        except UserError as error:
            changed = ", ".join(f"{key}={value}" for key, value in (settings or {}).items())
            given = f" with {changed}" if changed else ""
            raise type(error)(f"{folder / FILE_NAME}{given}: {error}") from error
        channels, *sizes = spec.image_shape or (3, -1, -1)
        window = self._views.window if self._views else None
        usual = window or (_WARMUP_EDGE, _WARMUP_EDGE)
        edges = (edge if edge > 0 else other for edge, other in zip(sizes, usual))
        shape = (1, channels, *edges)
        if engine in AUTO:
            from ppcls_lite.inference.auto.choose import choose

            asked = (threads, precision, device)
            self.choice = choose(folder, spec, shape, *asked, apart=True, by=engine)
            folder = self.choice.model
            found = {"engine": self.choice.engine, "precision": self.choice.precision}
            wanted = replace(wanted, **found)
        make = partial(wanted.make, folder, shape)
        if isolate:
            self._process = EngineProcess(make, isolate * math.prod(shape))
        self.engine: Engine = self._process or make()
        try:
            self._require_kind(shape, folder)
        except BaseException:
            self.close()
            raise

    def _require_kind(self, shape: tuple[int, ...], model: Path) -> None:
        """UserError if the program's outputs are not what `inference.yml` says they are."""
        noise = np.random.default_rng(0).standard_normal((_TRIALS, *shape), np.float32)
        outputs = joined([self.spec.named(self.engine.run(image)) for image in noise])
        problem = self.postprocess.doubt(outputs, self.spec.output)
        if problem is not None:
            raise UserError(
                f"{model / FILE_NAME}: Global.output is {self.spec.output}, but {problem}"
            )

    @classmethod
    def of(cls, spec: InferenceSpec, engine: Engine) -> Predictor:
        """A predictor around anything that runs the network, without an exported folder."""
        predictor = cls.__new__(cls)
        predictor._prepare(spec, build_postprocess(spec))
        predictor.engine = engine
        return predictor

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine's process, if it has one of its own."""
        if self._process:
            self._process.close()

    def _prepare(self, spec: InferenceSpec, postprocess: Postprocess) -> None:
        self.spec = spec
        self.choice: Choice | None = None
        self.postprocess = postprocess
        self._preprocess = Preprocessor.of(spec)
        self._views = views_of(spec.tiling, spec.tta)
        if self._views:
            self._whole = self._preprocess.later()
            self.pipeline = Pipeline(self._whole, self._see, self._finished)
        else:
            self.pipeline = Pipeline(self._preprocess, self._run, self._answer)
        self._process: EngineProcess | None = None

    def predict(
        self, inputs: Image | Sequence[Image] | np.ndarray, batch_size: int = 1
    ) -> list[Result]:
        """Predict one image or several, `batch_size` at once.

        Args:
            inputs: a path, the bytes of an image file, an (H, W, 3) uint8 RGB array (gray
                (H, W) and RGBA (H, W, 4) as well), an (N, H, W, 3) array, a Pillow image, or a
                list of those.

        Returns:
            One dict per image, in order: `file` (the path as text, `None` for an array),
            `class_ids`, `scores` (best first) and `label_names`, or what another post-processing
            than Topk gives.

        Raises ImageError where a file cannot be read, UserError for another shape or type,
        or an answer that is not a number.
        """
        return list(self.stream(_as_list(inputs), batch_size))

    def stream(
        self,
        images: Iterable[Image],
        batch_size: int = 1,
        keep_going: bool = False,
        observe: Observer | None = None,
        decode_threads: int = 0,
    ) -> Iterator[Result]:
        """Like `predict`, result by result, reading no more images ahead than a batch.

        With `keep_going`, an unreadable image, or an answer that is not a number, gives
        `{"file": ..., "error": message}` in its place instead of an error. `observe(stage,
        seconds, images)` is told how long each batch took, perhaps by another thread.
        `decode_threads` above 0 decodes ahead of inference with so many threads and reads a few
        batches ahead (pipeline.py).
        """
        return self.pipeline.stream(images, batch_size, keep_going, observe, decode_threads)

    def preprocess(self, image: Image) -> np.ndarray:
        """One image (bytes: an encoded file) as the network's input, (C, H, W) float32."""
        return self._preprocess(image).array

    def predict_batch(self, array: np.ndarray) -> np.ndarray:
        """Run the network on pre-processed images (N, C, H, W) float32, without post-processing.

        Returns the network's first output, (N, ...): of a classifier (N, classes) float32,
        probabilities, or logits if exported without softmax. Raises UserError for another shape
        than the exported one, or no numbers.
        """
        array = np.asarray(array)
        wanted = self.spec.image_shape
        fits = array.ndim == 4 and len(array) > 0 and accepts(wanted, array.shape[1:])
        if not fits or array.dtype.kind != "f":
            shape = ", ".join(map(str, wanted or ("C", "H", "W")))
            raise UserError(
                f"predict_batch: expected pre-processed images, (N, {shape}) float32, found "
                f"{array.shape} {array.dtype}; predict() takes pictures"
            )
        return self.engine.run(array)[0]

    def _run(self, arrays: list[np.ndarray]) -> Outputs:
        """The network's outputs for images (C, H, W); UserError if they differ in size."""
        _require_alike(arrays)
        # The process copies image by image into its memory: one copy less.
        return self.spec.named(self.engine.run(arrays if self._process else np.stack(arrays)))

    def _see(self, arrays: list[np.ndarray]) -> Outputs:
        """The outputs for whole images through windows and views, after the activation.

        Each band of an image is activated when it is complete: scores are never there as a whole,
        unless they are the answer.
        """
        _require_alike(arrays)
        seen = [self._seen(array) for array in arrays]
        if len(seen) == 1:
            return {name: output[None] for name, output in seen[0].items()}
        return {name: np.stack([outputs[name] for outputs in seen]) for name in seen[0]}

    def _seen(self, array: np.ndarray) -> Outputs:
        """Those of one image, (H, W, C) before normalisation or (C, H, W) after it."""
        normalizer, name = self._whole.normalizer, self.spec.outputs[0]
        height, width = array.shape[1:] if normalizer is None else array.shape[:2]

        def cut(rows: slice, columns: slice) -> np.ndarray:
            if normalizer is None:
                return array[:, rows, columns]
            return normalizer.normalize_image(np.ascontiguousarray(array[rows, columns]))

        whole: Outputs = {}
        broken = False
        bands = self._views.bands(lambda x: self.engine.run(x)[0], cut, (height, width))
        for first, scores in bands:
            broken = broken or not np.isfinite(scores.sum(dtype=np.float64))
            for key, part in self.postprocess.activated({name: scores[None]}).items():
                if key not in whole:
                    numbers = part.dtype.kind == "i"  # of classes, which mostly fit into 8 bits
                    kind = np.min_scalar_type(len(scores)) if numbers else part.dtype
                    whole[key] = np.empty((*part.shape[1:-2], height, width), kind)
                whole[key][..., first : first + part.shape[-2], :] = part[0]
        return {key: np.full(1, np.nan) if broken else found for key, found in whole.items()}

    def _answer(self, outputs: Outputs, metas: Sequence[Meta]) -> list[Result]:
        """Post-process; a network exported with logits gets its activation here. Where outputs
        are no numbers, the result is an error entry."""
        if self.spec.output == "logits":
            outputs = self.postprocess.activated(outputs)
        return self._finished(outputs, metas)

    def _finished(self, outputs: Outputs, metas: Sequence[Meta]) -> list[Result]:
        """Post-process what has been activated."""
        good = finite(outputs, len(metas))  # (N,)
        if good.all():
            return self.postprocess(outputs, metas)
        kept = {name: array[good] for name, array in outputs.items()}
        rest = [meta for meta, fine in zip(metas, good, strict=True) if fine]
        results = iter(self.postprocess(kept, rest) if rest else ())
        return [next(results) if fine else {"error": _NO_NUMBER} for fine in good]


def _require_alike(arrays: Sequence[np.ndarray]) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise UserError(
            f"images of one batch have different shapes after pre-processing, {sorted(shapes)}; "
            "use batch_size=1 (--batch-size 1) or a fixed size in transform_ops"
        )


def _as_list(inputs: Image | Sequence[Image] | np.ndarray) -> list[Image]:
    if isinstance(inputs, np.ndarray):
        return list(inputs) if inputs.ndim == 4 else [inputs]
    if isinstance(inputs, ONE_IMAGE):
        return [inputs]
    if not isinstance(inputs, Iterable):
        raise UserError(f"predict: expected images or paths, found {type(inputs).__name__}")
    images = list(inputs)
    for index, image in enumerate(images):
        if not isinstance(image, ONE_IMAGE):
            found = type(image).__name__
            raise UserError(
                f"predict: inputs[{index}]: expected a path, an array or a Pillow image, found "
                f"{found}"
            )
    return images
