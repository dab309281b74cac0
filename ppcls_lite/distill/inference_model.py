"""A teacher from a file: an exported inference folder, or an ONNX file of any framework.

It has no parameters and learns nothing; whatever the mode, it answers as in evaluation. Its answers
are logits: of a file that ends in a softmax, the logarithm of the probabilities, which has the same
softmax. Images arrive as the recipe normalises them; `expect` turns that into what the file wants.
Read before: distillation_model.py (where a teacher is named). Read next: inference/engines.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PositiveFloat, PositiveInt
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage, Normalizer
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import Engine, make_engine
from ppcls_lite.inference.engines.files import find_program
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.inference.preprocess import Preprocessor
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec

logger = logging.getLogger("ppcls_lite")

SMALLEST = np.finfo(np.float32).tiny  # a probability of 0 becomes the logit -87
FREE_EDGE = 224  # of the image on which a network of any size is tried out


@register("model")
class InferenceModel(nn.Layer):
    """Images (N, C, H, W) -> logits (N, class_num) by an inference engine, without gradient.

    Args:
        path: a folder that ppcls-lite export wrote (or PaddleClas, with its inference.yml), run by
            Paddle Inference on the device of the training; or a file `*.onnx`, run by ONNX Runtime
            on the CPU.
        class_num: what the student has; a file with another number is refused.
        output: what the file gives; auto: what inference.yml says; of an ONNX file, probabilities
            if a trial's rows are such.
        mean, std, scale: how the file wants its images normalised, (pixel * scale - mean) / std
            with pixels from 0 to 255. null: as its inference.yml says; of an ONNX file, as the
            recipe normalises them.
        threads: of one run on a CPU; null: the usable cores, at most 4.

    A file that is missing, damaged, for another image size or number of classes, takes BGR images,
    has a fixed batch, or does not end in logits or a softmax is a UserError.
    """

    from_file = True

    def __init__(
        self,
        path: str,
        class_num: ClassCount | None = None,
        output: Literal["auto", "logits", "probabilities"] = "auto",
        mean: list[float] | None = None,
        std: list[PositiveFloat] | None = None,
        scale: PositiveFloat | None = None,
        threads: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        given = (scale, mean, std)
        own = None if given == (None, None, None) else NormalizeImage(*given).normalizer
        if self.path.suffix.lower() == ".onnx":
            engine: Any = make_engine(self.path, "onnxruntime", threads=threads)
            self._files = [self.path]
            self._shape = engine.shape[1:]
            self.class_names: list[str] | None = None
            if engine.shape[0] is not None:
                raise UserError(
                    f"{self.path}: takes batches of {engine.shape[0]} only; export it with a free "
                    "(dynamic) batch"
                )
        else:
            spec = InferenceSpec.read(self.path)
            spec.check_files(self.path)
            own = own or _normalizer_of(spec, self.path)
            output = spec.output if output == "auto" else output
            self.class_names = spec.labels
            self._files = list(find_program(self.path))
            self._shape = tuple(None if e == -1 else e for e in spec.image_shape or (3, -1, -1))
            device = "gpu" if paddle.get_device().startswith("gpu") else "cpu"
            engine = make_engine(self.path, "paddle", threads=threads, device=device)
        self.normalizer: Normalizer | None = own
        self._engine: Engine = engine
        self._change: tuple[np.ndarray, np.ndarray] | None = None  # factor, offset (C, 1, 1)
        trial = self._trial()
        self.class_num = trial.shape[1]
        if class_num not in (None, self.class_num):
            raise UserError(
                f"{self.path}: gives {self.class_num} classes, but class_num is {class_num}; a "
                "teacher has to know the student's classes"
            )
        self.gives_probabilities = self._gives_probabilities(trial, output)
        self.eval()

    def expect(self, normalizer: Normalizer | None) -> str:
        """Be told how the training normalises its images; returns what is done about it.

        `normalizer` None: the images arrive as they are, with values from 0 to 255.
        """
        if self.normalizer is None:
            return f"{self.path}: takes the images as the recipe normalises them"
        own = self.normalizer
        there = (1.0, 0.0) if normalizer is None else (normalizer.factor, normalizer.offset)
        factor = own.factor / there[0]
        offset = own.offset - factor * there[1]
        if np.allclose(factor, 1, atol=1e-4) and np.allclose(offset, 0, atol=1e-4):
            self._change = None
            return f"{self.path}: was made for the recipe's normalisation"
        self._change = tuple(np.float32(v).reshape(-1, 1, 1) for v in (factor, offset))
        return (
            f"{self.path}: was made for mean {own.mean.tolist()}, std {own.std.tolist()}, scale "
            f"{own.scale:g}; the recipe's images are re-normalised for it"
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in any floating type -> logits (N, class_num) float32 on its device."""
        shape = images.shape[1:]
        if len(shape) != 3 or any(w not in (None, s) for w, s in zip(self._shape, shape)):
            raise UserError(
                f"{self.path}: takes images of shape {list(self._shape)} (null: any), but the "
                f"training's are {list(images.shape[1:])}; export the teacher for that size, or "
                "change the size in transform_ops"
            )
        array = images.detach().astype("float32").numpy()
        if self._change is not None:
            factor, offset = self._change
            array = array * factor + offset
        answers = self._run(array)  # (N, classes)
        if self.gives_probabilities:
            answers = np.log(np.maximum(answers, SMALLEST))
        return paddle.to_tensor(answers, place=images.place)

    def checksum(self) -> str:
        """SHA-256 over the program and its weights."""
        digest = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def reading(self) -> dict[str, str]:
        """What its answers depend on beside the file: how images go in, and what comes out."""
        own = self.normalizer
        return {
            "normalisation": "the recipe's"
            if own is None
            else f"scale {own.scale:g}, mean {own.mean.tolist()}, std {own.std.tolist()}",
            "output": "probabilities" if self.gives_probabilities else "logits",
        }

    def _run(self, array: np.ndarray) -> np.ndarray:
        answers = self._engine.run(array)[0]
        if answers.ndim != 2 or len(answers) != len(array):
            raise UserError(
                f"{self.path}: expected answers (N, classes) for {len(array)} images, found the "
                f"shape {answers.shape}; a teacher is a classifier with a free batch size"
            )
        return np.asarray(answers, np.float32)

    def _trial(self) -> np.ndarray:
        channels, *edges = self._shape
        shape = (2, channels or 3, *(edge or FREE_EDGE for edge in edges))
        return self._run(np.random.default_rng(0).standard_normal(shape, np.float32))

    def _gives_probabilities(self, trial: np.ndarray, output: str) -> bool:
        if output == "logits":
            problem = Topk().doubt({"logits": trial}, output)
            if problem is not None:
                raise UserError(f"{self.path}: {problem}, or the teacher's output")
        seem = bool((trial >= 0).all()) and np.allclose(trial.sum(axis=1), 1, atol=1e-2)
        if output == "probabilities" and not seem:
            raise UserError(
                f"{self.path}: should give the probabilities of a softmax, but a trial's rows sum "
                f"to {trial.sum(axis=1).tolist()}; a network with several attributes an image "
                "cannot teach one with classes. If it gives logits, say output: logits"
            )
        return seem if output == "auto" else output == "probabilities"


def _normalizer_of(spec: InferenceSpec, folder: Path) -> Normalizer:
    """How the folder's pre-processing normalises; UserError if it does not, or makes BGR."""
    ops = Preprocessor(spec.transform_ops).transform.ops
    if not all(op.to_rgb for op in ops if isinstance(op, DecodeImage)):
        raise UserError(f"{folder / FILE_NAME}: takes BGR images (to_rgb: false), expected RGB")
    normalizing = [op for op in ops if isinstance(op, NormalizeImage)]
    if not normalizing:
        raise UserError(
            f"{folder / FILE_NAME}: has no NormalizeImage, so how the network wants its images is "
            "unknown; say mean, std and scale"
        )
    return normalizing[-1].normalizer
