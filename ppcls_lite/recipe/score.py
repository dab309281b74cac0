"""Scores of a network that an inference engine runs: the evaluator, with the engine's forward pass.

The images, what is known about them and the metrics are a recipe's (`DataLoader.Eval` and
`Metric.Eval`), or a list's of `path class_id` lines, which is scored by top-1.
Read before: ../inference/quantize/report.py, which asks. Read next: ../engine/evaluate.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.config.file import load_config
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.evaluate import Evaluator, Loader, Metric
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.errors import ConfigError
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.preprocess import Preprocessor
from ppcls_lite.inference.quantize.report import Labelled
from ppcls_lite.inference.spec import InferenceSpec, Outputs
from ppcls_lite.inference.viewed_forward import ViewedForward
from ppcls_lite.inference.views import views_of
from ppcls_lite.metrics.topk import TopkAcc
from ppcls_lite.recipe.parts import build_datasets, build_loader, build_metrics
from ppcls_lite.recipe.start import scan_data, start_alone

SMALLEST = np.finfo(np.float32).tiny
ONE_BY_ONE = ("DataLoader.Eval.sampler.batch_size=1", "DataLoader.Eval.loader.num_workers=0")
# from probabilities back to logits, which metrics take
_INVERSE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": lambda p: np.log(np.maximum(p, SMALLEST)),
    "sigmoid": lambda p: np.log(np.maximum(p, SMALLEST)) - np.log(np.maximum(1 - p, SMALLEST)),
    "argmax": lambda classes: classes,  # which metrics of pixels take as well
    "none": lambda p: p,
}


class EngineEvaluation:
    """The images of `loader` and the `metrics` that score the network of an exported folder."""

    def __init__(self, spec: InferenceSpec, loader: Loader, metrics: Sequence[Metric]) -> None:
        self._answers = build_postprocess(spec)
        activation = self._answers.activation
        self._inverse = _INVERSE["none" if spec.output == "logits" else activation]
        self._loader, self._metrics = loader, metrics
        self._views = views_of(spec.tiling, spec.tta)
        self.paths = [Path(path) for path in loader.paths]
        self.higher_is_better = metrics[0].higher_is_better

    def scores(self, run: Callable[[np.ndarray], Outputs]) -> dict[str, float]:
        """The scores of what `run` makes of images (1, C, H, W) float32; the main one first."""

        @contextlib.contextmanager
        def forward(model: nn.Layer, images: Tensor, batches: int) -> Iterator[Callable]:
            yield lambda images: self._as_network(run(images.numpy()), images.shape[2:])

        if self._views:
            forward = ViewedForward(self._views, forward)

        task = Supervised(nn.Identity(), None)
        return Evaluator(task, self._loader, self._metrics, forward=forward).run()

    def _as_network(self, outputs: Outputs, size: Sequence[int]) -> Any:
        """The outputs as the network itself gives them for images of `size` (H, W).

        One alone is a tensor; scores of a fraction of the size are classes already.
        """
        if self._answers.coarse:
            outputs = self._answers.enlarged(outputs, size)
        found = {name: paddle.to_tensor(self._inverse(o)) for name, o in outputs.items()}
        return found if len(found) > 1 else next(iter(found.values()))


class LabelledImages:
    """The images of a list with class ids, one a batch, decoded when they are asked for."""

    def __init__(self, prepare: Preprocessor, labelled: Labelled) -> None:
        self._prepare, self._labels = prepare, [label for _, label in labelled]
        self.paths = [str(path) for path, _ in labelled]

    def __len__(self) -> int:
        return len(self.paths)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterable[dict[str, Tensor]]:
        """The batches, always in the list's order."""
        for path, label in zip(self.paths[start_step:], self._labels[start_step:]):
            image = paddle.to_tensor(self._prepare(path).array[None])
            yield {"image": image, "label": paddle.to_tensor([label])}


def by_list(spec: InferenceSpec, labelled: Labelled) -> EngineEvaluation:
    """Top-1 on the images of a list with class ids."""
    return EngineEvaluation(spec, LabelledImages(Preprocessor.of(spec), labelled), [TopkAcc(1)])


def by_recipe(spec: InferenceSpec, config: str) -> EngineEvaluation:
    """The metrics of a recipe on its evaluation images.

    Raises UserError for mistakes in the recipe and its data.
    """
    settings = start_alone(load_config(config, ONE_BY_ONE), ("DataLoader",)).settings
    metrics = build_metrics(settings, "Eval")
    if not metrics:
        raise ConfigError(f"{config}: Metric.Eval is missing: there is nothing to score by")
    datasets = build_datasets(settings, ("Eval",))
    scan_data(datasets, World())
    loader = build_loader(settings, "Eval", datasets["Eval"], World())
    for metric in metrics:
        metric.see(datasets["Eval"])
    return EngineEvaluation(spec, loader, metrics)
