"""Networks of the zoo as exported folders, with random weights whose activations stay of order one.

In a network with untrained statistics activations fade from layer to layer (the last feature of
PPLCNet_x0_5 is 4e-5 on average) or grow: towards numbers that processors handle slowly, and towards
answers that are alike whatever an engine does wrong. So batch normalisation takes its statistics
from noise first. Scores need training, latency does not: it depends on
the shapes alone. Read next: cli.py.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.files import ONNX_NAMES
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec
from ppcls_lite.models.create import create_model

_NOISE = 8  # images that the statistics are taken from
_NOISE_EDGE = 416  # of larger networks' images for that, at most
CLASSES = 1000


@dataclass(frozen=True)
class Job:
    """What networks of random weights are exported for; `size` (height, width)."""

    size: tuple[int, int]
    class_num: int = CLASSES
    postprocess: Mapping[str, Any] = field(default_factory=lambda: {"Topk": {"topk": 5}})

    @property
    def words(self) -> str:
        """The size as a part of a folder's name."""
        height, width = self.size
        return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True)
class _Unscored:
    """Stands where a quantised network's scores would: random weights have none."""

    note: str = "random weights, quantised for its speed alone"


def steady(network: nn.Layer, size: tuple[int, int], channels: int = 3) -> nn.Layer:
    """Give batch normalisation the statistics of noise (8, channels, *size); in eval mode after."""
    norms = [layer for layer in network.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    before = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 0.0  # the new statistics replace the old ones
    network.train()
    with paddle.no_grad():
        network(paddle.randn([_NOISE, channels, *size]))
    for norm, momentum in zip(norms, before):
        norm._momentum = momentum
    network.eval()
    return network


def prepare(
    names: Sequence[str],
    folder: Path,
    job: Job,
    formats: Sequence[str],
    say: Callable[[str], None] = print,
) -> dict[str, Path]:
    """Export each named network to `folder/<name>_<size>`, unless it lies there already.

    formats: paddle, onnx and int8, which is onnx quantised on noise.
    """
    found = {}
    wanted = [name for name in names if not _lies(folder / f"{name}_{job.words}", formats)]
    if wanted:
        say(f"exporting {len(wanted)} networks with random weights, 1 to 10 s each")
    start = time.perf_counter()
    for name in names:
        path = found[name] = folder / f"{name}_{job.words}"
        if name not in wanted:
            continue
        paddle.seed(0)
        edges = [min(edge, _NOISE_EDGE) if job.class_num != CLASSES else edge for edge in job.size]
        network = steady(create_model(name, class_num=job.class_num), (edges[0], edges[1]))
        height, width = job.size
        steps = [{"ResizeImage": {"size": [width, height]}}, {"NormalizeImage": {"order": ""}}]
        form = "both" if {"onnx", "int8"} & {*formats} else "paddle"
        answers = dict(job.postprocess)
        # Compared on what the statistics are of: elsewhere features grow, and rounding with them.
        noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        options = {"model_name": name, "format": form, "sample_images": noise}
        export_model(network, path, (3, *job.size), steps, answers, **options)
        if "int8" in formats:
            _quantise(path, job.size)
    if wanted:
        say(f"exported to {folder} in {time.perf_counter() - start:.0f} s")
    return found


def _quantise(folder: Path, size: tuple[int, int]) -> None:
    """Add `inference_int8.onnx`, all layers in int8, with the ranges of noise."""
    from ppcls_lite.inference.quantize import int8

    spec, rng = InferenceSpec.read(folder), np.random.default_rng(0)
    images = [rng.standard_normal((3, *size), np.float32) for _ in range(2)]
    with tempfile.TemporaryDirectory() as room:
        source = int8.float_model(folder, spec, Path(room))
        made, _ = int8.quantize(source, spec, images, Path(room), "none")
        int8.keep(folder, spec, made, _Unscored())


def _lies(path: Path, formats: Sequence[str]) -> bool:
    needed = {"onnx": ONNX_NAMES["fp32"], "int8": ONNX_NAMES["int8"], "paddle": FILE_NAME}
    return all((path / needed[form]).is_file() for form in {*formats, "paddle"})


def image_shape(folder: Path, size: int) -> tuple[int, int, int]:
    """The (C, H, W) that an exported folder takes; `size` where it leaves height or width open."""
    spec = InferenceSpec.read(folder, plugins=None)
    if spec.image_shape is None:
        return (3, size, size)
    channels, height, width = spec.image_shape
    if size < 1:
        raise UserError(f"--image-size: expected a number from 1 on, found {size}")
    return (channels, size if height == -1 else height, size if width == -1 else width)
