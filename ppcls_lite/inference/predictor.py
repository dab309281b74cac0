"""The Predictor: images in, classes out, from an exported folder and nothing else.

    from ppcls_lite import Predictor

    predictor = Predictor("inference")
    predictor.predict(["cat.jpg", "dog.jpg"], batch_size=2)
    # [{"file": "cat.jpg", "class_ids": [281, ...], "scores": [...], "label_names": [...]}, ...]

Pre-processing is what `inference.yml` says, run by the functions that training and evaluation use
(data/transforms). Read next: spec.py (the file), engines.py (how the program runs).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppcls_lite.config.check import build, build_list
from ppcls_lite.config.components import take_apart
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engine_process import EngineProcess
from ppcls_lite.inference.engines import Device, Engine, EngineName, Precision, make_engine
from ppcls_lite.inference.postprocess import Postprocess, Result
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec
from ppcls_lite.inference.stream import batched, classify, decode, overlapped, require_one_shape

if TYPE_CHECKING:
    from ppcls_lite.inference.auto.choose import Choice

Image = str | os.PathLike[str] | bytes | np.ndarray
Observer = Callable[[Literal["preprocess", "inference"], float, int], None]
_WARMUP_EDGE = 224  # of networks that take any size


class Predictor:
    """Classifies images with an exported network.

    One predictor may be used from several threads; one batch runs at a time.

    Args:
        model_dir: the folder that `deploy/export.py` wrote, or an ONNX file of such a folder.
        device: "cpu" or "gpu" (engine paddle only).
        mkldnn: use oneDNN (MKLDNN) on a CPU; `False` is for engine paddle only, to compare.
        threads: of one run on a CPU; `None`: the usable cores, at most 4.
        topk: how many classes per image, instead of the number in `inference.yml`.
        engine: "paddle", "openvino", "onnxruntime", or "auto": the fastest that is installed and
            right, measured once for this model and machine (auto.py).
        precision: "fp32", "bf16" or "int8"; `None`: fp32, and with "auto" whatever is fastest
            among those whose answers pass its check.
        isolate: above 0, run the engine in a process of its own, with shared memory for batches
            of so many images, so that Python goes on while it runs (engine_process.py). End it
            with `close` or a `with` block.

    Attributes:
        spec: what `inference.yml` says: `model_name`, `labels`, `image_shape`, ...
        engine: what runs the program.
        choice: what engine "auto" chose and why; else `None`.

    Raises:
        UserError: the folder, `inference.yml` or a file is missing, damaged or of another
            version; Paddle lacks what is asked for.
    """

    def __init__(
        self,
        model_dir: str | Path,
        device: Device = "cpu",
        mkldnn: bool = True,
        threads: int | None = None,
        topk: int | None = None,
        engine: EngineName | Literal["auto"] = "paddle",
        precision: Precision | None = None,
        isolate: int = 0,
    ) -> None:
        folder = Path(model_dir)
        spec = InferenceSpec.read(folder)
        if folder.is_dir():
            spec.check_files(folder)
        try:
            self._prepare(spec, topk)
        except UserError as error:
            raise type(error)(f"{folder / FILE_NAME}: {error}") from error
        channels, height, width = spec.image_shape or (3, _WARMUP_EDGE, _WARMUP_EDGE)
        edges = (edge if edge > 0 else _WARMUP_EDGE for edge in (height, width))
        shape = (1, channels, *edges)
        if not mkldnn:
            if engine != "paddle" or precision not in (None, "fp32"):
                raise UserError("mkldnn=False (--no-mkldnn) is for engine paddle with fp32 only")
            from ppcls_lite.inference.engines.paddle_engine import PaddleEngine

            make: Callable[[], Engine]
            make = partial(PaddleEngine, folder, device, False, threads, shape)
            self.engine: Engine = _start(make, isolate, shape)
            return
        if engine == "auto":
            from ppcls_lite.inference.auto.choose import choose

            choice = choose(folder, spec, shape, threads, precision, device, apart=True)
            self.choice = choice
            folder, engine, precision = choice.model, choice.engine, choice.precision
        precision = precision or "fp32"
        make = partial(make_engine, folder, engine, precision, threads, device, shape)
        self.engine = _start(make, isolate, shape)

    @classmethod
    def of(cls, spec: InferenceSpec, engine: Engine) -> Predictor:
        """A predictor around anything that runs the network, without an exported folder."""
        predictor = cls.__new__(cls)
        predictor._prepare(spec, None)
        predictor.engine = engine
        return predictor

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine's process, if it has one of its own."""
        if isinstance(self.engine, EngineProcess):
            self.engine.close()

    def _prepare(self, spec: InferenceSpec, topk: int | None) -> None:
        self.spec = spec
        self.choice: Choice | None = None
        self._transform = build_transform(spec.transform_ops)
        self._postprocess = _build_postprocess(spec.postprocess, topk)

    def predict(
        self, inputs: Image | Sequence[Image] | np.ndarray, batch_size: int = 1
    ) -> list[Result]:
        """Classify one image or several.

        Args:
            inputs: a path, the bytes of an image file, an (H, W, 3) uint8 RGB array (gray
                (H, W) and RGBA (H, W, 4) as well), an (N, H, W, 3) array, or a list of those.
            batch_size: how many images run at once.

        Returns:
            One dict per image, in order: `file` (the path as text, `None` for an array),
            `class_ids`, `scores` (best first) and `label_names`, or what another post-processing
            than Topk gives.

        Raises:
            ImageError: an image file cannot be read.
            UserError: an array of another shape or type; `batch_size` below 1.
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

        With `keep_going`, an unreadable image gives `{"file": ..., "error": message}` in its
        place instead of an ImageError. `observe(stage, seconds, images)` is told how long each
        batch took, perhaps by another thread. `decode_threads` above 0 decodes ahead of inference
        with so many threads and reads a few batches ahead (stream.py).
        """
        if batch_size < 1:
            raise UserError(f"batch_size: expected a whole number from 1 on, found {batch_size}")
        if decode_threads > 0:
            yield from overlapped(self, images, batch_size, keep_going, observe, decode_threads)
            return
        for batch in batched(images, batch_size):
            yield from classify(self, observe, [decode(self, keep_going, image) for image in batch])

    def preprocess(self, image: Image) -> np.ndarray:
        """One image (bytes: an encoded file) as the network's input, (C, H, W) float32."""
        is_path = isinstance(image, (str, os.PathLike))
        name = os.fspath(image) if is_path else "the image"
        sample = {"image": name if is_path else image, "path": name}
        result = self._transform(sample, None)["image"]  # (C, H, W)
        if not self.spec.accepts(result.shape):
            raise UserError(
                f"{name}: pre-processing gives the shape {result.shape}, but the network takes "
                f"{self.spec.image_shape}; correct transform_ops in {FILE_NAME} "
                "(usually a missing CropImage)"
            )
        return result

    def predict_batch(self, array: np.ndarray) -> np.ndarray:
        """Run the network on pre-processed images, without post-processing.

        Args:
            array: (N, C, H, W) float32, as `preprocess` gives each image.

        Returns:
            (N, classes) float32: probabilities, or logits if exported without softmax.

        Raises:
            UserError: another shape than the exported one, or not numbers.
        """
        array = np.asarray(array)
        fits = array.ndim == 4 and len(array) > 0 and self.spec.accepts(array.shape[1:])
        if not fits or array.dtype.kind != "f":
            shape = ", ".join(map(str, self.spec.image_shape or ("C", "H", "W")))
            raise UserError(
                f"predict_batch: expected pre-processed images, (N, {shape}) float32, found "
                f"{array.shape} {array.dtype}; predict() takes pictures"
            )
        return self.engine.run(array)[0]  # (N, classes)

    def predict_images(self, arrays: list[np.ndarray]) -> np.ndarray:
        """`predict_batch` of images (C, H, W) that `preprocess` gave one by one.

        Raises UserError if they differ in size.
        """
        require_one_shape(arrays)
        if isinstance(self.engine, EngineProcess):  # which saves a copy
            return self.engine.run(arrays)[0]  # (N, classes)
        return self.predict_batch(np.stack(arrays))

    def answers(self, outputs: np.ndarray) -> list[Result]:
        """Post-process (N, classes); a network exported with logits gets its activation here."""
        if self.spec.output == "logits":
            outputs = _ACTIVATIONS[self._postprocess.activation](outputs)
        return self._postprocess(outputs)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # never overflows


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid, "none": lambda logits: logits}


def _start(make: Callable[[], Engine], isolate: int, shape: tuple[int, ...]) -> Engine:
    return EngineProcess(make, isolate * math.prod(shape)) if isolate else make()


def build_transform(ops: Sequence[Any]) -> Compose:
    """The chain of `transform_ops`; one that does not begin with DecodeImage gets it."""
    chain = build_list(ops, "transform")
    if "DecodeImage" not in [take_apart(op)[0] for op in ops]:
        chain = [*build_list(["DecodeImage"], "transform"), *chain]
    return Compose(chain)


def _build_postprocess(node: dict[str, Any], topk: int | None) -> Postprocess:
    name, arguments = take_apart(node)
    if topk is not None:
        if name not in ("Topk", "DistillationPostProcess"):
            raise UserError(f"topk: the post-processing is {name}, which has no such number")
        arguments = {**arguments, "topk": topk}
    return build({name: arguments}, "postprocess")


def _as_list(inputs: Image | Sequence[Image] | np.ndarray) -> list[Image]:
    if isinstance(inputs, np.ndarray):
        return list(inputs) if inputs.ndim == 4 else [inputs]
    if isinstance(inputs, (str, os.PathLike, bytes)):
        return [inputs]
    if not isinstance(inputs, Iterable):
        raise UserError(f"predict: expected images or paths, found {type(inputs).__name__}")
    images = list(inputs)
    for index, image in enumerate(images):
        if not isinstance(image, (str, os.PathLike, bytes, np.ndarray)):
            found = type(image).__name__
            raise UserError(f"predict: inputs[{index}]: expected a path or array, found {found}")
    return images
