"""What int8 costs and brings: the score before and after, agreement, latency, size.

Both networks run in every installed engine that can, on images that calibration did not use.
Read before: int8.py. Read next: ../../recipe/score.py, which scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import Engine, EngineName, available_precisions, make_engine
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.spec import InferenceSpec, Outputs
from ppcls_lite.system.timing import in_turns, seconds

_ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")
_ROUNDS, _RUNS, _DROPPED = 15, 8, 2
_KEPT = 2**29  # bytes; a map of classes has millions of pixels
Labelled = Sequence[tuple[Path, int]]  # images with their class ids


class Evaluation(Protocol):
    """Images about which something is known, and how a network is scored on them."""

    paths: Sequence[Path]
    higher_is_better: bool

    def scores(self, run: Callable[[np.ndarray], Outputs]) -> dict[str, float]:
        """The scores of what `run` makes of images (1, C, H, W) float32; the main one first."""


@dataclass(frozen=True)
class EngineReport:
    """One engine with both networks."""

    engine: str
    score_before: float  # the main one
    score_after: float
    agreement: float  # share of the images, or pixels, that get the float network's answer
    ms_before: float  # median of one image
    ms_after: float


@dataclass(frozen=True)
class QuantizeReport:
    """`images` were evaluated by `metric`; sizes in bytes; `float_layers` stayed in float."""

    images: int
    calibration_images: int
    kept: str
    float_layers: int
    bytes_before: int
    bytes_after: int
    threads: int
    engines: tuple[EngineReport, ...]
    metric: str
    higher_is_better: bool = True

    def lines(self) -> list[str]:
        """A table for people."""
        shown = [
            f"{self.images} evaluation images, {self.calibration_images} for calibration; layers "
            f"in float: {self.float_layers} ({self.kept}); size {self.bytes_before / 1e6:.2f} MB "
            f"-> {self.bytes_after / 1e6:.2f} MB",
            f"{'engine':<12} {f'{self.metric} fp32':>10} {'int8':>8} {'agreement':>10} "
            f"{'ms fp32':>8} {'int8':>8}   ({self.threads} threads, batch 1, median)",
        ]
        for item in self.engines:
            shown.append(
                f"{item.engine:<12} {item.score_before:>10.2%} {item.score_after:>8.2%} "
                f"{item.agreement:>10.2%} {item.ms_before:>8.2f} {item.ms_after:>8.2f}"
            )
        return shown


def measure(
    float_model: Path,
    int8_model: Path,
    spec: InferenceSpec,
    evaluation: Evaluation,
    example: np.ndarray,
    kept: str,
    float_layers: int,
    calibration_images: int,
    threads: int,
) -> QuantizeReport:
    """Run both networks over the images; `example` (1, C, H, W) float32 is one like them."""
    postprocess, found, metric = build_postprocess(spec), [], ""
    for name in _ENGINES:
        if available_precisions(name)["int8"] is not None:
            continue
        engines = [
            make_engine(path, name, kind, threads, "cpu", example.shape)
            for path, kind in ((float_model, "fp32"), (int8_model, "int8"))
        ]
        (before, reference), (after, outputs) = (
            _scores_and_outputs(engine, spec, evaluation) for engine in engines
        )
        metric = next(iter(before))
        if evaluation.higher_is_better and not before[metric] > 0:
            raise UserError(
                f"the network before quantisation has a {metric} of {before[metric]:.2%} on the "
                "evaluation images, so that nothing can be lost: their class ids are not those of "
                "this network (they count from 0), or its weights are damaged"
            )
        pairs = zip(reference, outputs, strict=True)
        same = float(np.mean([postprocess.agreement(*p, spec.output).same for p in pairs]))
        found.append(
            EngineReport(name, before[metric], after[metric], same, *_alternate(engines, example))
        )
    sizes = float_model.stat().st_size, int8_model.stat().st_size
    return QuantizeReport(
        *(len(evaluation.paths), calibration_images, kept, float_layers, *sizes, threads),
        *(tuple(found), metric, evaluation.higher_is_better),
    )


def _scores_and_outputs(
    engine: Engine, spec: InferenceSpec, evaluation: Evaluation
) -> tuple[dict[str, float], list[Outputs]]:
    """The scores, and the outputs of the first images: as many as fit into `_KEPT` bytes."""
    kept: list[Outputs] = []
    room = _KEPT

    def run(images: np.ndarray) -> Outputs:
        nonlocal room
        outputs = spec.named(engine.run(images))
        room -= sum(array.nbytes for array in outputs.values())
        if room > 0 or not kept:
            kept.append(outputs)
        return outputs

    return evaluation.scores(run), kept


def _alternate(engines: Sequence[Engine], batch: np.ndarray) -> list[float]:
    """Median milliseconds of each, in turns so that a noisy machine is noisy for all."""
    runs = [partial(seconds, partial(engine.run, batch), _RUNS, _DROPPED) for engine in engines]
    found = in_turns(dict(enumerate(runs)), _ROUNDS, warm_up=0)
    return [float(np.median(turns)) * 1e3 for turns in found.values()]
