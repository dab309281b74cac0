"""What int8 costs and brings: top-1 before and after, agreement, latency, size.

Both networks run in every installed engine that can, on images that calibration did not use.
Read before: int8.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ppcls_lite.inference.engines import (
    Engine,
    EngineName,
    Precision,
    available_precisions,
    make_engine,
)
from ppcls_lite.system.timing import in_turns, seconds

_ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")
_ROUNDS, _RUNS, _DROPPED = 15, 8, 2


@dataclass(frozen=True)
class EngineReport:
    """One engine with both networks.

    top1_before, top1_after, agreement: shares of the evaluation images; agreement is with the
    float network's best class. ms_before, ms_after: median of one image.
    """

    engine: str
    top1_before: float
    top1_after: float
    agreement: float
    ms_before: float
    ms_after: float


@dataclass(frozen=True)
class QuantizeReport:
    """`images` were evaluated; sizes in bytes; `float_layers` stayed in float."""

    images: int
    calibration_images: int
    kept: str
    float_layers: int
    bytes_before: int
    bytes_after: int
    threads: int
    engines: tuple[EngineReport, ...]

    def lines(self) -> list[str]:
        """A table for people."""
        shown = [
            f"{self.images} evaluation images, {self.calibration_images} for calibration; layers "
            f"in float: {self.float_layers} ({self.kept}); size {self.bytes_before / 1e6:.2f} MB "
            f"-> {self.bytes_after / 1e6:.2f} MB",
            f"{'engine':<12} {'top-1 fp32':>10} {'int8':>8} {'agreement':>10} "
            f"{'ms fp32':>8} {'int8':>8}   ({self.threads} threads, batch 1, median)",
        ]
        for item in self.engines:
            shown.append(
                f"{item.engine:<12} {item.top1_before:>10.2%} {item.top1_after:>8.2%} "
                f"{item.agreement:>10.2%} {item.ms_before:>8.2f} {item.ms_after:>8.2f}"
            )
        return shown


def measure(
    float_model: Path,
    int8_model: Path,
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    kept: str,
    float_layers: int,
    calibration_images: int,
    threads: int,
) -> QuantizeReport:
    """Run both networks over `images`, (C, H, W) float32 each, with their class ids."""
    truth = np.asarray(labels)
    found = []
    for name in _ENGINES:
        if available_precisions(name)["int8"] is not None:
            continue
        engines = [
            _load(path, name, kind, threads, images[0].shape)
            for path, kind in ((float_model, "fp32"), (int8_model, "int8"))
        ]
        before, after = (
            np.array([engine.run(image[None])[0].argmax() for image in images])
            for engine in engines
        )
        ms_before, ms_after = _alternate(engines, images[0][None])
        found.append(
            EngineReport(
                engine=name,
                top1_before=float((before == truth).mean()),
                top1_after=float((after == truth).mean()),
                agreement=float((before == after).mean()),
                ms_before=ms_before,
                ms_after=ms_after,
            )
        )
    return QuantizeReport(
        images=len(images),
        calibration_images=calibration_images,
        kept=kept,
        float_layers=float_layers,
        bytes_before=float_model.stat().st_size,
        bytes_after=int8_model.stat().st_size,
        threads=threads,
        engines=tuple(found),
    )


def _load(
    path: Path, name: EngineName, precision: Precision, threads: int, shape: tuple[int, ...]
) -> Engine:
    return make_engine(path, name, precision, threads, "cpu", (1, *shape))


def _alternate(engines: Sequence[Engine], batch: np.ndarray) -> list[float]:
    """Median milliseconds of each, in turns so that a noisy machine is noisy for all."""
    contenders = {
        index: partial(seconds, partial(engine.run, batch), _RUNS, _DROPPED)
        for index, engine in enumerate(engines)
    }
    found = in_turns(contenders, _ROUNDS, warm_up=0)
    return [float(np.median(turns)) * 1e3 for turns in found.values()]
